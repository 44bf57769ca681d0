"""Reasoning apart from content, the variables of the chat template, and messages that the model continues."""

import json

import pytest

from fastserve.config import ServerConfig
from fastserve.errors import InvalidArgumentError
from fastserve.server.app import build_app
from fastserve.server.requests.body_shape import MAX_TEMPLATE_KWARGS
from fastserve.server.requests.constraints import after_reasoning
from fastserve.tokenizer import ChatTemplates
from fastserve.types import StructuredOutputs
from tests.unit.server.conftest import Live, called_in_process, live_server
from tests.unit.server.fake_engine import FakeEngine, FakeTokenizer, Script

USER = [{"role": "user", "content": "hi"}]
THOUGHT = "<think>\nhm ok\n</think>\n\nYes."
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
# Ends as those of Qwen3 do.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
    "{% if reasoning_effort %}[{{ reasoning_effort }}]{% endif %}{% if mood %}[{{ mood }}]{% endif %}"
    "{% if add_generation_prompt %}assistant:"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% if opened %}<think>\n{% endif %}{% endif %}"
)


def engine_that_says(text: str) -> FakeEngine:
    class Tokenizer(FakeTokenizer):
        chat_templates = ChatTemplates({"default": TEMPLATE}, {})

    return FakeEngine(Script(pieces=tuple(text)), tokenizer=Tokenizer())


def prompt(live: Live) -> str:
    """The last prompt."""
    return bytes(live.engine.calls[-1].prompt_token_ids).decode()


@pytest.fixture
async def thinker():
    """A server of a model that reasons."""
    async with live_server(engine_that_says(THOUGHT), ServerConfig(reasoning_parser="qwen3")) as live:
        yield live


async def test_reasoning_stands_apart_under_both_its_names(thinker):
    reply = await thinker.openai.chat.completions.create(model="fake", messages=USER)
    message = reply.choices[0].message
    assert (message.content, message.reasoning, message.reasoning_content) == ("\n\nYes.", "\nhm ok\n", "\nhm ok\n")
    assert reply.usage.completion_tokens_details.reasoning_tokens == len("<think>\nhm ok\n</think>")


async def test_a_stream_has_the_same_reasoning(thinker):
    stream = await thinker.openai.chat.completions.create(
        model="fake", messages=USER, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == "\n\nYes."
    for name in ("reasoning", "reasoning_content"):
        assert "".join(getattr(delta, name, None) or "" for delta in deltas) == "\nhm ok\n"
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == len("<think>\nhm ok\n</think>")


async def test_reasoning_that_is_not_wanted_is_left_out(thinker):
    reply = (await thinker.chat(include_reasoning=False)).json()
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": "\n\nYes."}
    assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_a_reply_without_reasoning_is_content(thinker):
    thinker.engine.script = Script(pieces=tuple("Yes."))
    reply = (await thinker.chat()).json()
    assert reply["choices"][0]["message"] == {"role": "assistant", "content": "Yes."}
    assert reply["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}


async def test_thinking_that_is_turned_off_makes_all_of_it_content(thinker):
    thinker.engine.script = Script(pieces=tuple("Yes </think>"))
    reply = (await thinker.chat(chat_template_kwargs={"enable_thinking": False})).json()
    assert prompt(thinker).endswith("</think>\n\n")
    assert reply["choices"][0]["message"]["content"] == "Yes </think>"


async def test_reasoning_that_the_prompt_begins_needs_no_mark(thinker):
    thinker.engine.script = Script(pieces=tuple("hm</think>Yes."))
    message = (await thinker.chat(chat_template_kwargs={"opened": True})).json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("hm", "Yes.")


async def test_without_a_parser_the_reasoning_is_content():
    async with called_in_process(engine_that_says(THOUGHT), ServerConfig()) as direct:
        reply = (await direct.chat()).json()
        assert reply["choices"][0]["message"] == {"role": "assistant", "content": THOUGHT}
        assert "completion_tokens_details" not in reply["usage"]


async def test_calls_come_after_the_reasoning():
    call = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'
    config = ServerConfig(reasoning_parser="qwen3", enable_auto_tool_choice=True, tool_call_parser="hermes")
    async with called_in_process(engine_that_says(f"<think>{call}?</think>\n\n{call}"), config) as direct:
        (choice,) = (await direct.chat(tools=[TOOL])).json()["choices"]
        assert choice["message"]["reasoning"] == call + "?" and choice["message"]["content"] is None
        assert len(choice["message"]["tool_calls"]) == 1 and choice["finish_reason"] == "tool_calls"


# --- the form of the content begins after the reasoning ---


@pytest.mark.parametrize(
    ("outputs", "content"),
    [
        (StructuredOutputs(json='{"type": "object"}'), {"type": "json_schema", "json_schema": {"type": "object"}}),
        (StructuredOutputs(json_object=True), {"type": "json_schema", "json_schema": {"type": "object"}}),
        (StructuredOutputs(regex="a+"), {"type": "regex", "pattern": "a+"}),
        (StructuredOutputs(grammar='root ::= "a"'), {"type": "grammar", "grammar": 'root ::= "a"'}),
        (
            StructuredOutputs(choice=("a", "b")),
            {"type": "or", "elements": [{"type": "const_string", "value": text} for text in "ab"]},
        ),
        (
            StructuredOutputs(structural_tag='{"type": "structural_tag", "format": {"type": "any_text"}}'),
            {"type": "any_text"},
        ),
    ],
)
def test_a_form_holds_for_what_follows_the_reasoning(outputs, content):
    assert after_reasoning(outputs, False) == outputs
    begun = json.loads(after_reasoning(outputs, True).structural_tag)["format"]
    assert begun["type"] == "sequence" and begun["elements"][-1] == content
    assert (begun["elements"][0]["begin"], begun["elements"][0]["end"]) == ("", "</think>")
    maybe = json.loads(after_reasoning(outputs, None).structural_tag)["format"]
    assert maybe["type"] == "or" and maybe["elements"][1] == content
    assert maybe["elements"][0]["elements"][0]["begin"] == "<think>"


async def test_forced_calls_leave_the_reasoning_free(thinker):
    thinker.engine.script = Script(pieces=tuple('<think>hm</think>\n[{"name": "look", "parameters": {}}]'))
    message = (await thinker.chat(tools=[TOOL], tool_choice="required")).json()["choices"][0]["message"]
    assert message["reasoning"] == "hm" and message["tool_calls"][0]["function"]["name"] == "look"
    tag = json.loads(thinker.engine.calls[0].sampling.structured_outputs.structural_tag)["format"]
    assert tag["elements"][1]["json_schema"]["type"] == "array"


# --- the template ---


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({}, "user:hi;assistant:"),
        ({"reasoning_effort": "high"}, "user:hi;[high]assistant:"),
        ({"reasoning_effort": "none"}, "user:hi;[none]assistant:<think>\n\n</think>\n\n"),
        ({"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}}, "user:hi;[none]assistant:"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "user:hi;assistant:<think>\n\n</think>\n\n"),
        ({"chat_template_kwargs": {"mood": 10**30}}, f"user:hi;[{10**30}]assistant:"),
        ({"chat_template_kwargs": {}}, "user:hi;assistant:"),
        ({"chat_template_kwargs": None}, "user:hi;assistant:"),
    ],
)
async def test_variables_reach_the_template(thinker, fields, end):
    assert (await thinker.chat(**fields)).status_code == 200
    assert prompt(thinker) == end
    if "reasoning_effort" not in fields:
        count = (await thinker.post("/tokenize", messages=USER, **fields)).json()["count"]
        assert count == len(end)


async def test_the_server_has_variables_that_a_request_may_override():
    config = ServerConfig(default_chat_template_kwargs={"mood": "glad", "enable_thinking": False})
    async with called_in_process(engine_that_says("Yes."), config) as direct:
        await direct.chat()
        assert prompt(direct) == "user:hi;[glad]assistant:<think>\n\n</think>\n\n"
        await direct.chat(chat_template_kwargs={"mood": "sad"}, reasoning_effort="low")
        assert prompt(direct) == "user:hi;[low][sad]assistant:"


@pytest.mark.parametrize("content", ["Once upon", "Once upon ", "", "<think>hm", [{"type": "text", "text": "Once"}]])
async def test_the_last_message_is_continued(thinker, content):
    messages = [*USER, {"role": "assistant", "content": content}]
    text = content if isinstance(content, str) else content[0]["text"]
    for fields in ({}, {"add_generation_prompt": False}):
        reply = await thinker.post("/v1/chat/completions", messages=messages, continue_final_message=True, **fields)
        assert reply.status_code == 200 and prompt(thinker) == f"user:hi;assistant:{text}"
    reply = await thinker.post("/tokenize", messages=messages, continue_final_message=True)
    assert reply.json()["count"] == len(f"user:hi;assistant:{text}")


async def test_reasoning_that_was_cut_is_continued_as_reasoning(thinker):
    thinker.engine.script = Script(pieces=tuple(" ok</think>Yes."))
    messages = [*USER, {"role": "assistant", "content": "<think>hm"}]
    reply = await thinker.post("/v1/chat/completions", messages=messages, continue_final_message=True)
    message = reply.json()["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == (" ok", "Yes.")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, "exclude each other"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs must not set 'messages'"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "use the field for it"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs must not set 'a b'"),
        ({"chat_template_kwargs": {f"a{i}": 1 for i in range(MAX_TEMPLATE_KWARGS + 1)}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": "x" * 270_000}}, "chat_template_kwargs must have at most 262144 bytes"),
        ({"reasoning_effort": "enormous"}, "reasoning_effort"),
        ({"chat_template": "{{ 1 }}"}, "chat_template is not supported"),
        ({"include_reasoning": "maybe"}, "include_reasoning"),
    ],
)
async def test_what_a_template_cannot_have_is_refused(direct, fields, words):
    direct.serving.config = ServerConfig(max_body_bytes=1 << 20)
    for _ in range(2):
        reply = await direct.chat(**fields)
        assert reply.status_code == 400 and words in reply.json()["error"]["message"]
        fields = fields | {"user": "x" * 20_000}  # a long body is read elsewhere


async def test_a_message_that_a_template_hides_cannot_be_continued():
    class Tokenizer(FakeTokenizer):
        chat_templates = ChatTemplates({"default": "{{ messages | length }}"}, {})

    async with called_in_process(FakeEngine(tokenizer=Tokenizer()), ServerConfig()) as direct:
        reply = await direct.chat(continue_final_message=True)
        assert reply.status_code == 400 and "continue_final_message" in reply.json()["error"]["message"]


@pytest.mark.parametrize("kind", ["file", "text", "name"])
async def test_the_server_may_have_another_template(tmp_path, kind):
    source = "other {{ messages[0].content }}"
    path = tmp_path / "chat.jinja"
    path.write_text(source)
    engine = engine_that_says("Yes.")
    engine.tokenizer.chat_templates = ChatTemplates({"default": TEMPLATE, "tool_use": source}, {})
    config = ServerConfig(chat_template={"file": str(path), "text": source, "name": "tool_use"}[kind])
    async with called_in_process(engine, config) as direct:
        assert (await direct.chat()).status_code == 200
        assert prompt(direct) == "other hi"


def test_a_template_that_cannot_be_read_stops_the_start(tmp_path):
    with pytest.raises(InvalidArgumentError, match="chat_template must be a Jinja file"):
        build_app(None, ServerConfig(chat_template=str(tmp_path / "none.jinja")), "fake")
