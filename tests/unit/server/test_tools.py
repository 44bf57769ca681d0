"""Tools in /v1/chat/completions, through the openai client, with an engine that writes a given text."""

import json

import pytest

from fastserve.config import ServerConfig
from fastserve.errors import InvalidArgumentError
from fastserve.server.app import build_app
from fastserve.server.requests.body_shape import MAX_TOOLS
from fastserve.tokenizer import ChatTemplates
from tests.unit.server.conftest import called_in_process, live_server
from tests.unit.server.fake_engine import FakeEngine, FakeTokenizer, Script

SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}},
    "required": ["city"],
    "$defs": {"City": {"type": "string"}},
}
LOOK = {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": SCHEMA}}
NOW = {"type": "function", "function": {"name": "now"}}
NAMED = {"type": "function", "function": {"name": "look"}}
USER = [{"role": "user", "content": "hi"}]
PARIS = '{"city": "Paris"}'
TWO_CALLS = (
    f'Let me see.\n<tool_call>\n{{"name": "look", "arguments": {PARIS}}}\n</tool_call>\n'
    '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
)
AUTO = ServerConfig(enable_auto_tool_choice=True, tool_call_parser="hermes")


class ShowingTokenizer(FakeTokenizer):
    """Its template shows what it gets."""

    chat_templates = ChatTemplates(
        {"default": "{{ tools | tojson if tools else '-' }}|{% for m in messages %}{{ m | tojson }}{% endfor %}"}, {}
    )


def says(text: str, size: int = 3) -> FakeEngine:
    """An engine that says this, a few characters at a time."""
    return FakeEngine(Script(pieces=tuple(text[i : i + size] for i in range(0, len(text), size))))


@pytest.fixture
async def auto():
    """A server that lets the model call tools as it likes."""
    async with live_server(says(TWO_CALLS), AUTO) as live:
        yield live


async def joined(stream) -> tuple[str, list[dict], str]:
    """Content, calls and finish reason of a stream, put together as clients do; each call has its id and name once."""
    content, calls, reason = "", [], None
    async for chunk in stream:
        (choice,) = chunk.choices
        content += choice.delta.content or ""
        for call in choice.delta.tool_calls or ():
            if call.index == len(calls):
                assert call.id and call.type == "function" and call.function.name
                calls.append({"id": call.id, "name": call.function.name, "arguments": ""})
            else:
                assert call.index == len(calls) - 1 and call.id is None and call.function.name is None
            calls[call.index]["arguments"] += call.function.arguments or ""
        reason = choice.finish_reason or reason
    return content, calls, reason


async def test_calls_stand_apart_from_the_content(auto):
    reply = await auto.openai.chat.completions.create(model="fake", messages=USER, tools=[LOOK, NOW])
    (choice,) = reply.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me see.")
    assert [(call.type, call.function.name, call.function.arguments) for call in choice.message.tool_calls] == [
        ("function", "look", PARIS),
        ("function", "now", "{}"),
    ]
    assert len({call.id for call in choice.message.tool_calls}) == 2


@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_a_stream_has_the_same_calls(auto, size):
    auto.engine.script = says(TWO_CALLS, size).script
    stream = await auto.openai.chat.completions.create(model="fake", messages=USER, tools=[LOOK, NOW], stream=True)
    content, calls, reason = await joined(stream)
    assert (content, reason) == ("Let me see.", "tool_calls")
    assert [(call["name"], call["arguments"]) for call in calls] == [("look", PARIS), ("now", "{}")]


async def test_arguments_are_streamed_in_pieces(auto):
    stream = await auto.openai.chat.completions.create(model="fake", messages=USER, tools=[LOOK], stream=True)
    arguments = [
        call.function.arguments
        async for chunk in stream
        for call in chunk.choices[0].delta.tool_calls or ()
        if call.index == 0
    ]
    assert len([text for text in arguments if text]) > 3


async def test_one_call_is_left_where_parallel_calls_are_not_wanted(auto):
    for stream in (False, True):
        reply = await auto.openai.chat.completions.create(
            model="fake", messages=USER, tools=[LOOK, NOW], parallel_tool_calls=False, stream=stream
        )
        calls = (await joined(reply))[1] if stream else reply.choices[0].message.tool_calls
        assert len(calls) == 1


async def test_a_reply_without_a_call_is_content(auto):
    auto.engine.script = Script(
        pieces=(
            "a <tool_",
            "call",
            "> b",
        )
    )
    reply = await auto.openai.chat.completions.create(model="fake", messages=USER, tools=[LOOK])
    assert reply.choices[0].message.content == "a <tool_call> b"
    assert (reply.choices[0].finish_reason, reply.choices[0].message.tool_calls) == ("stop", None)


async def test_a_reply_that_was_cut_says_so(auto):
    reply = await auto.openai.chat.completions.create(model="fake", messages=USER, tools=[LOOK], max_tokens=25)
    assert reply.choices[0].finish_reason == "length"


async def test_the_calls_can_be_sent_back_with_their_results(auto):
    reply = await auto.openai.chat.completions.create(model="fake", messages=USER, tools=[LOOK, NOW])
    message = reply.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    again = await auto.openai.chat.completions.create(
        model="fake", messages=[*USER, message, *results], tools=[LOOK, NOW]
    )
    assert again.choices[0].message.tool_calls


async def test_each_choice_and_its_logprobs_are_its_own(auto):
    reply = (
        await auto.post("/v1/chat/completions", messages=USER, tools=[LOOK], n=2, logprobs=True, top_logprobs=1)
    ).json()
    assert [len(choice["message"]["tool_calls"]) for choice in reply["choices"]] == [2, 2]
    assert all(len(choice["logprobs"]["content"]) == len(auto.engine.script.pieces) for choice in reply["choices"])
    stream = await auto.openai.chat.completions.create(
        model="fake", messages=USER, tools=[LOOK], n=2, logprobs=True, stream=True
    )
    rows = [chunk.choices[0] async for chunk in stream]
    tokens = [row for choice in rows if choice.logprobs for row in choice.logprobs.content]
    assert len(tokens) == 2 * len(auto.engine.script.pieces)


# --- required, named, none ---


async def test_required_constrains_the_output_to_a_list_of_calls():
    engine = says(f'[{{"name": "look", "parameters": {PARIS}}}, {{"name": "now", "parameters": {{}}}}]')
    async with live_server(engine, ServerConfig()) as live:
        for stream in (False, True):
            reply = await live.openai.chat.completions.create(
                model="fake", messages=USER, tools=[LOOK, NOW], tool_choice="required", stream=stream
            )
            if stream:
                content, calls, reason = await joined(reply)
                found = [(call["name"], call["arguments"]) for call in calls]
            else:
                message, reason = reply.choices[0].message, reply.choices[0].finish_reason
                content = message.content
                found = [(call.function.name, call.function.arguments) for call in message.tool_calls]
            assert found == [("look", PARIS), ("now", "{}")] and not content and reason == "tool_calls"
        schema = json.loads(live.engine.calls[0].sampling.structured_outputs.json)
        look, now = schema["items"]["anyOf"]
        assert schema["minItems"] == 1 and "maxItems" not in schema
        assert look["properties"]["name"] == {"const": "look"}
        assert look["properties"]["parameters"]["properties"]["city"] == {
            "$ref": "#/items/anyOf/0/properties/parameters/$defs/City"
        }
        assert now["properties"]["parameters"] == {"type": "object"}
        await live.chat(tools=[LOOK], tool_choice="required", parallel_tool_calls=False)
        assert json.loads(live.engine.calls[-1].sampling.structured_outputs.json)["maxItems"] == 1


async def test_a_named_function_constrains_the_output_to_its_arguments():
    async with live_server(says(PARIS), ServerConfig()) as live:
        for stream in (False, True):
            reply = await live.openai.chat.completions.create(
                model="fake", messages=USER, tools=[LOOK, NOW], tool_choice=NAMED, stream=stream
            )
            if stream:
                content, ((call),), reason = await joined(reply)
                found = (call["name"], call["arguments"])
            else:
                message, reason = reply.choices[0].message, reply.choices[0].finish_reason
                content, (call,) = message.content, message.tool_calls
                found = (call.function.name, call.function.arguments)
            assert found == ("look", PARIS) and not content
            assert reason == "stop"  # as OpenAI and vLLM have it: the model had no choice
        assert json.loads(live.engine.calls[0].sampling.structured_outputs.json) == SCHEMA


async def test_without_a_choice_to_call_the_output_is_content(auto):
    for fields in (
        {"tools": [LOOK], "tool_choice": "none"},
        {"tools": []},
        {"tool_choice": "auto"},
        {"tool_choice": "none"},
    ):
        reply = (await auto.chat(**fields)).json()["choices"][0]
        assert (reply["message"], reply["finish_reason"]) == ({"role": "assistant", "content": TWO_CALLS}, "stop")
    assert all(call.sampling.structured_outputs is None for call in auto.engine.calls)


async def test_strict_tools_constrain_what_a_call_may_say(auto):
    strict = {"type": "function", "function": LOOK["function"] | {"strict": True}}
    await auto.chat(tools=[strict, NOW])
    tag = json.loads(auto.engine.calls[0].sampling.structured_outputs.structural_tag)
    assert tag["format"]["type"] == "triggered_tags" and tag["format"]["triggers"] == ["<tool_call>"]
    look, now = tag["format"]["tags"]
    assert look["begin"] == '<tool_call>\n{"name": "look", "arguments": ' and look["end"] == "}\n</tool_call>"
    assert look["content"]["json_schema"] == SCHEMA and now["content"]["json_schema"] == {"type": "object"}
    await auto.chat(tools=[LOOK, NOW])
    assert auto.engine.calls[1].sampling.structured_outputs is None


# --- the template ---


@pytest.mark.parametrize("exclude", [False, True])
async def test_the_template_gets_the_tools(exclude):
    engine = FakeEngine()
    engine.tokenizer = ShowingTokenizer()
    config = ServerConfig(exclude_tools_when_tool_choice_none=exclude)
    noted = {"type": "function", "function": LOOK["function"] | {"strict": False, "cache": 1}, "cache_control": {}}
    async with called_in_process(engine, config) as direct:
        for fields, shown in (
            ({"tools": [noted], "tool_choice": "required"}, json.dumps([LOOK])),
            ({"tools": [noted], "tool_choice": "none"}, "-" if exclude else json.dumps([LOOK])),
            ({}, "-"),
        ):
            assert (await direct.chat(**fields)).status_code == 200
            assert bytes(direct.engine.calls[-1].prompt_token_ids).decode().partition("|")[0] == shown
        long = [{"type": "function", "function": {"name": f"f{i}", "description": "x" * 2000}} for i in range(20)]
        counted = (await direct.post("/tokenize", messages=USER, tools=long)).json()["count"]
        assert counted > 40_000


async def test_marks_that_are_special_tokens_are_not_hidden():
    class Tokenizer(FakeTokenizer):
        def decode(self, ids, skip_special_tokens=True):
            text = super().decode(ids, skip_special_tokens)
            return text.replace("[TOOL_CALLS]", "") if skip_special_tokens else text

    engine = says("[TOOL_CALLS]look" + PARIS)
    engine.tokenizer = Tokenizer()
    async with called_in_process(
        engine, ServerConfig(enable_auto_tool_choice=True, tool_call_parser="mistral")
    ) as direct:
        (call,) = (await direct.chat(tools=[LOOK])).json()["choices"][0]["message"]["tool_calls"]
        assert len(call["id"]) == 9 and call["function"]["name"] == "look"
        await direct.chat(tools=[LOOK], tool_choice="none")
        assert [call.sampling.skip_special_tokens for call in engine.calls] == [False, True]


# --- refusals ---


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"tools": [LOOK]}, "--enable-auto-tool-choice and --tool-call-parser"),
        ({"tools": [LOOK], "tool_choice": "auto"}, "--enable-auto-tool-choice"),
        ({"tool_choice": "required"}, "tool_choice needs tools"),
        ({"tool_choice": NAMED}, "tool_choice needs tools"),
        ({"tools": [NOW], "tool_choice": NAMED}, "tool_choice must name one of the tools, got 'look'"),
        ({"tools": [LOOK], "tool_choice": "always"}, "tool_choice must be none, auto, required, or {"),
        ({"tools": [LOOK], "tool_choice": {"type": "allowed_tools"}}, "tool_choice must be none, auto"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function is required"),
        ({"tools": [{"function": {"name": ""}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f" * 257}}]}, "tools[0].function.name"),
        ({"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools[0].function.parameters"),
        ({"tools": [NOW] * (MAX_TOOLS + 1)}, f"tools must be at most {MAX_TOOLS} tools"),
        ({"tools": "look"}, "tools"),
        ({"tools": [{"function": {"name": "f", "description": "x" * 270_000}}]}, "tools must have at most 262144 bytes"),
        ({"parallel_tool_calls": "maybe"}, "parallel_tool_calls"),
        ({"functions": [{"name": "f"}]}, "functions is not supported"),
        (
            {"tools": [{"function": {"name": "f", "description": "x", "parameters": {"enum": ["y" * 10_000] * 14}}}],
             "tool_choice": "required"},
            "too long",
        ),
    ],
)  # fmt: skip
async def test_a_choice_that_cannot_be_made_is_refused(direct, fields, words):
    direct.serving.config = ServerConfig(max_body_bytes=1 << 20)
    reply = await direct.chat(**fields)
    assert reply.status_code == 400 and words in reply.json()["error"]["message"]


def test_a_server_that_cannot_read_calls_does_not_start():
    with pytest.raises(InvalidArgumentError, match="enable_auto_tool_choice needs tool_call_parser"):
        build_app(None, ServerConfig(enable_auto_tool_choice=True), "fake")
