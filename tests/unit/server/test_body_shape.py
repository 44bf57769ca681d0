"""Bodies with too many parts are refused before they are parsed, those with too many items before a model is built."""

import msgspec
import pytest

from fastserve.server.errors import ApiError
from fastserve.server.requests.body_shape import (
    MAX_FIELDS,
    MAX_JSON_DEPTH,
    MAX_JSON_PARTS,
    MAX_MESSAGES,
    MAX_PROMPTS,
    check_depth,
    check_parts,
    check_shape,
)
from fastserve.server.requests.json_body import parse_object
from fastserve.types import MAX_STOP_STRINGS, MAX_STOP_TOKEN_IDS

MILLION = 1_000_000


def joined(item: bytes, count: int) -> bytes:
    return b'{"prompt":[' + b",".join([item] * count) + b"]}"


@pytest.mark.parametrize("item", [b"[]", b"{}", b'""', b'"a\\"b"', b'{"a":[]}'])
def test_million_small_parts_are_refused_unparsed(item, monkeypatch):
    monkeypatch.setattr(msgspec.json, "decode", pytest.fail)
    with pytest.raises(ApiError, match="at most 131072 objects, lists and strings"):
        parse_object(joined(item, MILLION // 2))


def test_limit_of_parts_is_exact():
    body = joined(b"[]", MAX_JSON_PARTS - 3)  # the object, the name of its field and the outer list are three more
    check_parts(body)
    with pytest.raises(ApiError, match="objects, lists and strings"):
        check_parts(body[:-2] + b",[]]}")


@pytest.mark.parametrize(
    "text", ["[" * MILLION, '"' * MILLION, "\\" * MILLION, '\\"[' * (MILLION // 3), "{]\\" * 10_001]
)
def test_brackets_quotes_and_backslashes_of_a_text_are_no_parts(text):
    assert parse_object(msgspec.json.encode({"prompt": text})) == {"prompt": text}


def test_token_ids_are_no_parts():
    assert len(parse_object(joined(b"1", MILLION))["prompt"]) == MILLION


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["a"] * (MAX_PROMPTS + 1)},
        {"prompt": [[1]] * (MAX_PROMPTS + 1)},
        {"prompt": [None] * MILLION},
        {"messages": [1] * (MAX_MESSAGES + 1)},
        {"stop": [1] * (MAX_STOP_STRINGS + 1)},
        {"stop_token_ids": ["a"] * (MAX_STOP_TOKEN_IDS + 1)},
        {f"a{i}": 1 for i in range(MAX_FIELDS + 1)},
    ],
    ids=lambda body: repr(body)[:20],
)
def test_too_many_items_are_refused_whatever_they_are(body):
    with pytest.raises(ApiError, match=r"must (be|have) at most") as refused:
        check_shape(body)
    assert refused.value.param in (None, *body)


def test_as_many_items_as_allowed_pass():
    check_shape({"prompt": ["a"] * MAX_PROMPTS, "stop": ["a"] * MAX_STOP_STRINGS, "messages": [1] * MAX_MESSAGES})
    check_shape({"prompt": [1] * MILLION, "stop_token_ids": [1] * MAX_STOP_TOKEN_IDS, "stop": None})


@pytest.mark.parametrize("before", [[], [1] * 1000, ["a"]])
def test_depth_is_found_behind_anything(before):
    value: list = []
    for _ in range(MAX_JSON_DEPTH - 1):
        value = [*before, value]
    check_depth(value)
    with pytest.raises(ApiError, match="levels deep"):
        check_depth([*before, value])
