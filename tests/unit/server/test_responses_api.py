"""`/v1/responses` through the openai client: whole replies, events, and what it refuses."""

import json

import pytest

from fastserve.config import ServerConfig
from fastserve.server.requests.request_body import INLINE_BODY_BYTES
from fastserve.types import FinishReason
from tests.unit.server.conftest import live_server
from tests.unit.server.fake_engine import Script

TEXT = "Hello, wörld"


def prompt_of(live) -> str:
    return bytes(live.engine.calls[-1].prompt_token_ids).decode()


async def test_a_text_is_answered_by_a_message(live):
    reply = await live.openai.responses.create(
        model="fake", input="hi", instructions="be brief", max_output_tokens=50, temperature=0.5, store=True
    )
    assert prompt_of(live) == "system: be brief\nuser: hi\nassistant: "
    assert (reply.output_text, reply.status, reply.incomplete_details) == (TEXT, "completed", None)
    assert [item.type for item in reply.output] == ["message"] and reply.id.startswith("resp_")
    assert (reply.instructions, reply.max_output_tokens, reply.temperature) == ("be brief", 50, 0.5)
    usage = reply.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (
        len(prompt_of(live)),
        3,
        len(prompt_of(live)) + 3,
    )
    assert usage.input_tokens_details.cached_tokens == 4
    assert live.engine.calls[-1].sampling.max_tokens == 50


async def test_items_are_the_turns_of_a_conversation(live):
    first = await live.openai.responses.create(model="fake", input=[{"role": "user", "content": "hi"}])
    turns = [
        {"role": "developer", "content": "be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        *(item.model_dump() for item in first.output),
        {"role": "user", "content": "go on"},
    ]
    await live.openai.responses.create(model="fake", input=turns)
    assert prompt_of(live) == f"system: be brief\nuser: hi\nassistant: {TEXT}\nuser: go on\nassistant: "


async def test_a_long_conversation_is_read_alike(live):
    text = "x" * 200
    body = {"input": [{"role": "user", "content": text}], "instructions": "i", "user": "u" * INLINE_BODY_BYTES}
    reply = await live.post("/v1/responses", **body)
    assert reply.status_code == 200 and reply.json()["instructions"] == "i"
    assert prompt_of(live) == f"system: i\nuser: {text}\nassistant: "


async def test_an_answer_that_was_cut_is_incomplete(live):
    reply = await live.openai.responses.create(model="fake", input="hi", max_output_tokens=2)
    assert (reply.status, reply.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    stream = await live.openai.responses.create(model="fake", input="hi", max_output_tokens=2, stream=True)
    last = [each async for each in stream][-1]
    assert (last.type, last.response.incomplete_details.reason) == ("response.incomplete", "max_output_tokens")


async def test_a_stream_tells_every_step_in_order(live):
    stream = await live.openai.responses.create(model="fake", input="hi", stream=True)
    events = [each async for each in stream]
    assert [each.type.removeprefix("response.") for each in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * 3,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert [each.sequence_number for each in events] == list(range(len(events)))
    assert "".join(each.delta for each in events if each.type == "response.output_text.delta") == TEXT
    whole = events[-1].response
    assert (whole.output_text, whole.usage.output_tokens) == (TEXT, 3)
    assert {each.item_id for each in events[3:9]} == {whole.output[0].id}


async def test_the_stream_of_the_client_gathers_the_same_response(live):
    async with live.openai.responses.stream(model="fake", input="hi") as stream:
        async for _ in stream:
            pass
        assert (await stream.get_final_response()).output_text == TEXT


@pytest.mark.parametrize("streamed", [False, True])
async def test_reasoning_is_an_item_of_its_own(engine, streamed):
    engine.script = Script(pieces=("<think>", "why", " not", "</think>", "yes"))
    async with live_server(engine, ServerConfig(reasoning_parser="qwen3")) as live:
        reply = await live.openai.responses.create(model="fake", input="hi", stream=streamed)
        if streamed:
            reply = [each async for each in reply][-1].response
        assert [item.type for item in reply.output] == ["reasoning", "message"]
        assert (reply.output[0].content[0].text, reply.output_text) == ("why not", "yes")


async def test_a_failure_in_a_stream_is_an_error_event(live):
    live.engine.script = Script(finish=FinishReason.ERROR, error="it broke")
    reply = await live.post("/v1/responses", input="hi", stream=True)
    last = json.loads(reply.text.strip().splitlines()[-1].removeprefix("data: "))
    assert (last["type"], last["message"], last["code"]) == ("error", "it broke", "request_failed")
    events = [each async for each in await live.openai.responses.create(model="fake", input="hi", stream=True)]
    assert (events[-1].type, events[-1].message, events[-1].sequence_number) == ("error", "it broke", len(events) - 1)


async def test_a_format_of_the_text_is_followed(live):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"format": {"type": "json_schema", "name": "a", "schema": schema, "strict": True}, "verbosity": "low"}
    await live.openai.responses.create(model="fake", input="hi", text=form)
    asked = live.engine.calls[-1].sampling.structured_outputs.json
    assert (json.loads(asked) if isinstance(asked, str) else asked)["properties"] == schema["properties"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "function_call_output", "call_id": "1", "output": ""}]}, "input[0].type"),
        ({"input": "hi", "tools": [{"type": "web_search"}]}, "tools"),
        ({"input": "hi", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "hi", "conversation": "c"}, "conversation"),
        ({"input": "hi", "background": True}, "background"),
        ({"input": "hi", "truncation": "auto"}, "truncation"),
        ({"input": "hi", "top_logprobs": 3}, "top_logprobs"),
        ({"input": "hi", "instructions": 1}, "instructions"),
        ({"input": "hi", "messages": []}, "messages"),
        ({"input": "hi", "n": 2}, "n"),
        ({"input": "hi", "temperature": -1}, "temperature"),
        ({"input": "hi", "text": "x"}, "text"),
    ],
)
async def test_what_the_route_cannot_do_is_a_400_that_names_it(direct, fields, param):
    reply = await direct.post("/v1/responses", **fields)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param
    assert direct.engine.calls == []


async def test_unknown_fields_are_named_in_a_warning(direct):
    reply = await direct.post("/v1/responses", input="hi", nonsense=1)
    assert reply.status_code == 200 and "nonsense" in reply.headers["warning"]
