"""Fields that vLLM's clients send: what they mean, numbers in other spellings, and fields that no rule knows."""

import json
import logging

import pytest

from fastserve.config import ServerConfig
from fastserve.server.requests.request_body import INLINE_BODY_BYTES, MAX_NAMES
from tests.unit.server.conftest import live_server
from tests.unit.server.fake_engine import BOS, Script

PROMPT_IDS = [BOS, *b"hi"]
CHAT_IDS = list(b"user: hi\nassistant: ")


def rows(text: str) -> list[dict]:
    """The chunks of a stream."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


# --- numbers ---


@pytest.mark.parametrize(
    ("field", "spelling", "value"),
    [
        ("max_tokens", "5", 5),
        ("max_tokens", 5.0, 5),
        ("seed", 1.0, 1),
        ("seed", "-3", -3),
        ("temperature", "0.5", 0.5),
        ("temperature", 1, 1.0),
        ("top_k", "7", 7),
        ("presence_penalty", "-0.5", -0.5),
        ("n", 2.0, 2),
    ],
)
async def test_numbers_may_be_texts_and_whole_ones_floats(direct, field, spelling, value):
    for reply in (await direct.complete(**{field: spelling}), await direct.chat(**{field: spelling})):
        assert reply.status_code == 200, reply.text
        got = getattr(direct.engine.calls[-1].sampling, field)
        assert (got, type(got)) == (value, type(value))


@pytest.mark.parametrize("spelling", ["false", "False", "0", 0, "no"])
async def test_switches_may_be_texts_and_numbers(direct, spelling):
    reply = await direct.complete(stream=spelling, echo=spelling, include_stop_str_in_output=spelling)
    assert reply.headers["content-type"] == "application/json"
    assert direct.engine.calls[-1].sampling.include_stop_str_in_output is False
    reply = await direct.chat(stream="true", stream_options={"include_usage": 1}, skip_special_tokens=spelling)
    assert rows(reply.text)[-1]["usage"]["completion_tokens"] > 0
    assert direct.engine.calls[-1].sampling.skip_special_tokens is False


async def test_what_vllm_ignores_is_ignored_without_a_warning(direct):
    ignored = {"store": True, "service_tier": "flex", "user": "ann", "metadata": {"a": "b"}}
    for reply in (await direct.complete(best_of=5, **ignored), await direct.chat(verbosity="low", **ignored)):
        assert reply.status_code == 200
        assert "warning" not in reply.headers


async def test_of_two_limits_the_newer_name_counts(direct):
    assert (await direct.chat(max_tokens=3, max_completion_tokens=4)).status_code == 200
    assert direct.engine.calls[-1].sampling.max_tokens == 4


async def test_an_empty_model_is_the_one_there_is(direct):
    assert (await direct.complete(model="")).status_code == 200
    assert (await direct.chat(model="")).status_code == 200


async def test_a_thousand_prompts_are_one_request(direct):
    reply = await direct.complete(prompt=["hi"] * 1024, max_tokens=1)
    assert [choice["index"] for choice in reply.json()["choices"]] == list(range(1024))


async def test_a_long_body_is_read_alike(direct):
    direct.serving.config = ServerConfig(max_body_bytes=1 << 20)
    fields = {"user": "x" * INLINE_BODY_BYTES, "max_tokens": "5", "temperature": "0.5", "nonsense": 1}
    reply = await direct.complete(**fields)
    assert reply.status_code == 200 and "nonsense" in reply.headers["warning"]
    sampling = direct.engine.calls[0].sampling
    assert (sampling.max_tokens, sampling.temperature) == (5, 0.5)


# --- unknown fields ---


async def test_unknown_fields_are_ignored_with_a_header_and_one_line_in_the_log(live, caplog):
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        for reply in (
            await live.complete(nonsense=7),
            await live.complete(nonsense=7, stream=True),
            await live.chat(nonsense={"a": [1]}),
            await live.post("/tokenize", prompt="a", nonsense=7),
            await live.post("/detokenize", tokens=[97], nonsense=7),
        ):
            assert reply.status_code == 200
            assert reply.headers["warning"] == '299 fastserve "ignored unknown fields: nonsense"'
    assert len([record for record in caplog.records if "'nonsense'" in record.getMessage()]) == 1
    assert "warning" not in (await live.complete()).headers


async def test_unknown_fields_within_messages_and_options_are_ignored_too(direct):
    message = {"role": "user", "content": "hi", "mood": "good"}
    reply = await direct.post(
        "/v1/chat/completions", messages=[message] * 3, stream=True, stream_options={"include_usage": True, "odd": 1}
    )
    assert reply.status_code == 200
    assert reply.headers["warning"] == '299 fastserve "ignored unknown fields: messages[].mood, stream_options.odd"'
    assert rows(reply.text)[-1]["usage"] is not None


async def test_names_of_unknown_fields_do_no_harm_in_the_header(live):
    names = {"a\r\nset-cookie: x": 1, "\u4f60": 2, '"': 3, "x" * 5000: 4}
    reply = await live.complete(**names, **{f"f{i}": i for i in range(200)})
    assert reply.status_code == 200 and "set-cookie" not in reply.headers
    assert reply.headers["warning"].isascii() and len(reply.headers["warning"]) < 1000
    assert reply.headers["warning"].endswith(f'and {64 - MAX_NAMES} more"')


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"stream": True, "stream_options": {"odd": 1}}, "stream_options.odd"),
        ({"messages": [{"role": "user", "content": "hi", "mood": 1}]}, "messages[0].mood"),
    ],
)
async def test_strict_fields_refuses_unknown_fields(strict, fields, param):
    for padding in ("", "x" * INLINE_BODY_BYTES):
        error = (await strict.chat(**fields | {"user": padding})).json()["error"]
        assert (error["code"], error["param"]) == ("unknown_field", param)
    assert strict.engine.calls == []


async def test_a_field_that_is_known_and_not_supported_is_refused_whatever_the_flag(direct):
    reply = await direct.complete(guided_json={"type": "object"})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "guided_json")
    assert reply.json()["error"]["message"].endswith("use structured_outputs.json")


# --- token ids ---


async def test_return_token_ids_shows_prompt_and_output(live):
    body = (await live.complete(return_token_ids=True, prompt=["hi", "x"])).json()
    assert [choice["prompt_token_ids"] for choice in body["choices"]] == [PROMPT_IDS, [BOS, *b"x"]]
    assert [choice["token_ids"] for choice in body["choices"]] == [list(b"H, ")] * 2
    body = (await live.chat(return_token_ids=True)).json()
    assert (body["prompt_token_ids"], body["choices"][0]["token_ids"]) == (CHAT_IDS, list(b"H, "))
    assert "token_ids" not in (await live.complete()).text


@pytest.mark.parametrize("usage", [False, True], ids=["plain", "usage"])
async def test_in_a_stream_the_prompt_comes_with_the_first_chunk(live, usage):
    live.engine.script = Script(pieces=("H", "", "i"))  # the second token has no text of its own
    options = {"stream": True, "return_token_ids": True}
    if usage:
        options["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    chunks = [row for row in rows((await live.complete(**options)).text) if row["choices"]]
    assert [chunk["choices"][0].get("prompt_token_ids") for chunk in chunks] == [PROMPT_IDS, None, None, None]
    assert [chunk["choices"][0]["token_ids"] for chunk in chunks] == [[72], [63], [105], []]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "Hi"
    chunks = [row for row in rows((await live.chat(**options)).text) if row["choices"]]
    assert [chunk.get("prompt_token_ids") for chunk in chunks] == [CHAT_IDS, None, None, None, None]
    assert [chunk["choices"][0].get("token_ids") for chunk in chunks] == [None, [72], [63], [105], []]


# --- truncation ---


@pytest.mark.parametrize(
    ("prompt", "fields", "expected"),
    [
        ([1, 2, 3], {"truncate_prompt_tokens": 2}, [2, 3]),
        ([1, 2, 3], {"truncate_prompt_tokens": 3}, [1, 2, 3]),
        ([1, 2, 3], {"truncate_prompt_tokens": 10**9}, [1, 2, 3]),
        ("hi", {"truncate_prompt_tokens": "1"}, [105]),
        ([1] * 2000, {"truncate_prompt_tokens": 5}, [1] * 5),
        ([1] * 2000, {"truncate_prompt_tokens": -1, "max_tokens": 12}, [1] * 500),
        ([1] * 2000, {"truncate_prompt_tokens": -1}, [1] * 496),
        ("x" * 5000, {"truncate_prompt_tokens": 4}, list(b"xxxx")),
    ],
)
async def test_truncate_prompt_tokens_keeps_the_last(direct, prompt, fields, expected):
    reply = await direct.complete(prompt=prompt, **fields)
    assert reply.status_code == 200, reply.text
    assert direct.engine.calls[0].prompt_token_ids == expected
    assert reply.json()["usage"]["prompt_tokens"] == len(expected)


async def test_truncation_in_other_places(direct):
    reply = await direct.complete(prompt="say ", truncate_prompt_tokens=2, echo=True)
    assert reply.json()["choices"][0]["text"].startswith("y Hello")
    assert (await direct.chat("x" * 2000, truncate_prompt_tokens=3)).status_code == 200
    assert direct.engine.calls[-1].prompt_token_ids == list(b"t: ")
    assert (await direct.chat("x" * 2000, truncate_prompt_tokens=-1, max_tokens=10)).status_code == 200
    assert len(direct.engine.calls[-1].prompt_token_ids) == 502
    error = (await direct.complete(prompt=[1] * 2000, truncate_prompt_tokens=600)).json()["error"]
    assert error["code"] == "context_length_exceeded"


async def test_a_long_list_of_ids_is_truncated_too(engine):
    async with live_server(engine, ServerConfig(max_body_bytes=1 << 20)) as live:
        reply = await live.complete(prompt=[[7] * 20_000, [8] * 20_000], truncate_prompt_tokens=4)
        assert reply.status_code == 200, reply.text
        assert engine.calls[0].prompts == [[7] * 4, [8] * 4]
