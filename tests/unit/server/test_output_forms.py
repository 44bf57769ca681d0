"""`response_format` and `structured_outputs`: what they become, what is refused, and what a bad form cannot hurt."""

import asyncio
import os

import pytest

from fastserve.config import ServerConfig
from fastserve.errors import InvalidArgumentError
from fastserve.server.requests.request_body import INLINE_BODY_BYTES
from fastserve.server.side_processes import form_checker
from fastserve.server.side_processes.form_checker import FormChecker
from fastserve.types import StructuredOutputs
from tests.unit.server.conftest import called_in_process, until
from tests.unit.server.fake_engine import FakeEngine

pytestmark = pytest.mark.checks_forms

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
SCHEMA_TEXT = '{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}'
TAG = {"type": "structural_tag", "format": {"type": "const_string", "value": "abc"}}
TAG_TEXT = '{"type":"structural_tag","format":{"type":"const_string","value":"abc"}}'
OLD_TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<f>", "schema": SCHEMA, "end": "</f>"}],
    "triggers": ["<f"],
}
ACCEPTED = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, StructuredOutputs(json_object=True)),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}},
        StructuredOutputs(json=SCHEMA_TEXT),
    ),
    ({"response_format": TAG}, StructuredOutputs(structural_tag=TAG_TEXT)),
    ({"structured_outputs": {"json": SCHEMA}}, StructuredOutputs(json=SCHEMA_TEXT)),
    ({"structured_outputs": {"json": SCHEMA_TEXT}}, StructuredOutputs(json=SCHEMA_TEXT)),
    ({"structured_outputs": {"json": True}}, StructuredOutputs(json="true")),
    ({"structured_outputs": {"json_object": True, "regex": None}}, StructuredOutputs(json_object=True)),
    ({"structured_outputs": {"regex": "a+"}}, StructuredOutputs(regex="a+")),
    ({"structured_outputs": {"choice": ["a", "b"]}}, StructuredOutputs(choice=("a", "b"))),
    ({"structured_outputs": {"grammar": 'root ::= "a"'}}, StructuredOutputs(grammar='root ::= "a"')),
    ({"structured_outputs": {"structural_tag": TAG_TEXT}}, StructuredOutputs(structural_tag=TAG_TEXT)),
    ({"structured_outputs": {"structural_tag": TAG}}, StructuredOutputs(structural_tag=TAG_TEXT)),
    (
        {"response_format": {"type": "text"}, "structured_outputs": {"regex": "a", "disable_any_whitespace": False}},
        StructuredOutputs(regex="a"),
    ),
]
BAD_FORMS = [
    ({"structured_outputs": {"json": "{"}}, "structured_outputs", "structured_outputs.json cannot be used: Expecting"),
    ({"structured_outputs": {"json": False}}, "structured_outputs", "structured_outputs.json cannot be used: Schema 'false'"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs", "structured_outputs.regex cannot be used: Regex"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"uniqueItems": True}}}},
        "response_format",
        "response_format: a JSON schema with 'uniqueItems' is not supported",
    ),
    ({"response_format": {"type": "structural_tag", "format": {}}}, "response_format", "response_format cannot be used: Inv"),
]  # fmt: skip


async def test_forms_reach_the_engine_and_bad_ones_are_a_400_with_the_reason(engine: FakeEngine) -> None:
    async with called_in_process(engine, ServerConfig(max_body_bytes=64 * 1024)) as server:
        for ask in (server.complete, server.chat):
            for fields, form in ACCEPTED:
                # Long bodies are read in another process, which must give the same.
                for padding in ({}, {"user": "x" * INLINE_BODY_BYTES}):
                    engine.calls.clear()
                    reply = await ask(**fields | padding)
                    assert reply.status_code == 200, (fields, reply.text)
                    assert engine.calls[0].sampling.structured_outputs == form
            engine.calls.clear()
            for fields, param, message in BAD_FORMS:
                reply = await ask(**fields)
                assert reply.status_code == 400
                error = reply.json()["error"]
                assert (error["param"], error["code"]) == (param, "invalid_value")
                assert error["message"].startswith(message)
            assert engine.calls == []
        assert len(server.serving._form_checker.pids()) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 3}}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "structural_tag"}}, "response_format"),
        ({"response_format": {"type": "structural_tag", "structures": []}}, "response_format"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regx": "a"}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice[0]"),
        ({"structured_outputs": {"regex": 3}}, "structured_outputs.regex"),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "disable_any_whitespace": True}}, "structured_outputs.disable_any_whitespace"),
        ({"structured_outputs": {"regex": "a", "whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}, "structured_outputs"),
    ],
    ids=str,
)  # fmt: skip
async def test_a_field_that_names_no_form_is_a_400(direct, fields: dict[str, object], param: str) -> None:
    reply = await direct.chat(**fields)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param), reply.text
    assert direct.engine.calls == []


async def test_a_form_that_takes_too_long_is_refused_and_its_process_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = FormChecker(FakeEngine())
    try:
        await checker.check(StructuredOutputs(regex="a"))
        (pid,) = checker.pids()
        monkeypatch.setattr(form_checker, "CHECK_LIMIT_S", 0.05)
        slow = StructuredOutputs(regex="([a-z]{1,500}x){1,500}" * 2000)
        with pytest.raises(InvalidArgumentError, match=r"structured_outputs must be compiled within 0.05 s"):
            await checker.check(slow)
        assert checker.pids() == []
        assert not os.path.exists(f"/proc/{pid}")
        await checker.check(StructuredOutputs(regex="a"))  # remembered
        assert checker.pids() == []
    finally:
        checker.close()


async def test_requests_for_one_form_wait_for_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, go_on = [], asyncio.Event()

    async def ask(form: StructuredOutputs) -> None:
        asked.append(form)
        await go_on.wait()

    checker = FormChecker(FakeEngine())
    monkeypatch.setattr(checker, "_ask", ask)
    form = StructuredOutputs(regex="a")
    checks = [asyncio.create_task(checker.check(form)) for _ in range(5)]
    await until(lambda: asked)
    checks[0].cancel()  # its client has gone: the others still wait
    await asyncio.gather(checks[0], return_exceptions=True)
    go_on.set()
    await asyncio.gather(*checks[1:])
    await checker.check(form)
    assert asked == [form]
