"""Turns of a conversation as clients give them back: taken, or refused by name; what reaches the chat template."""

import pytest

from fastserve.server.errors import ApiError
from fastserve.server.requests.messages import MAX_TOOL_CALLS
from fastserve.server.requests.schema import ChatRequest
from fastserve.server.requests.validation import parse_request

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "sky", "unit": null}'}}
SEEN_CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": {"at": "sky", "unit": None}}}
REPLY = {
    "role": "assistant", "content": "fine", "refusal": None, "annotations": [], "audio": None, "function_call": None,
    "tool_calls": None, "name": None,
}  # fmt: skip


def rows(*messages: dict) -> list[dict]:
    """What the template gets of a body with these messages."""
    return [message.as_template_row() for message in parse_request(ChatRequest, {"messages": list(messages)}).messages]


@pytest.mark.parametrize(
    ("message", "row"),
    [
        (REPLY, {"role": "assistant", "content": "fine"}),
        ({"role": "assistant", "content": None, "tool_calls": []}, {"role": "assistant", "content": ""}),
        ({"role": "assistant"}, {"role": "assistant", "content": ""}),
        ({"role": "assistant", "content": "", "annotations": [{"type": "url_citation"}], "refusal": "no"},
         {"role": "assistant", "content": ""}),
        ({"role": "assistant", "content": "x", "provider_specific_fields": {"refusal": None}, "images": []},
         {"role": "assistant", "content": "x"}),
        ({"role": "user", "content": [{"type": "text", "text": "a", "name": None, "cache_control": {"type": "e"}}]},
         {"role": "user", "content": "a"}),
        ({"role": "assistant", "content": None, "tool_calls": [CALL | {"index": 0}]},
         {"role": "assistant", "content": "", "tool_calls": [SEEN_CALL]}),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": ""}}]},
         {"role": "assistant", "content": "",
          "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}),
        ({"role": "assistant", "tool_calls": [{"id": None, "function": {"name": "f", "arguments": '{"cut'}}]},
         {"role": "assistant", "content": "",
          "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": '{"cut'}}]}),
        ({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
         {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": {}}}),
        ({"role": "tool", "content": "blue", "tool_call_id": "c1"},
         {"role": "tool", "content": "blue", "tool_call_id": "c1"}),
        ({"role": "function", "content": "blue", "name": "look"},
         {"role": "function", "content": "blue", "name": "look"}),
        ({"role": "assistant", "content": "x", "reasoning_content": "hm"},
         {"role": "assistant", "content": "x", "reasoning": "hm", "reasoning_content": "hm"}),
        ({"role": "assistant", "content": "x", "reasoning": "hm"},
         {"role": "assistant", "content": "x", "reasoning": "hm", "reasoning_content": "hm"}),
    ],
)  # fmt: skip
def test_message_reaches_the_template_without_a_none(message, row):
    assert rows({"role": "user", "content": "hi"}, message)[1] == row


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"role": "user", "content": None}, "messages[1].content is required"),
        ({"role": "tool", "tool_call_id": "c1"}, "messages[1].content is required"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[1].tool_calls[0].function is required"),
        ({"role": "assistant", "tool_calls": "x"}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [CALL | {"type": "custom"}]}, "messages[1].tool_calls[0].type"),
        ({"role": "assistant", "tool_calls": [CALL] * (MAX_TOOL_CALLS + 1)}, f"at most {MAX_TOOL_CALLS} items"),
        ({"role": "assistant", "tool_calls": [CALL | {"id": "x" * 2000}]}, "at most 1024 characters"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f" * 300}}]}, "at most 256 characters"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]}, "arguments"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages[1].audio is not supported"),
        ({"role": "assistant", "content": "x", "color": "red"}, "unknown field 'messages[1].color'"),
        ({"role": "robot", "content": "x"}, "messages[1].role"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "messages[1].content"),
    ],
)
def test_message_that_cannot_be_used_is_refused_by_name(message, words):
    with pytest.raises(ApiError) as caught:
        rows({"role": "user", "content": "hi"}, message)
    assert caught.value.status == 400 and words in caught.value.message


async def test_reply_can_be_sent_back_as_it_came(live):
    user = {"role": "user", "content": "hi"}
    reply = await live.openai.chat.completions.create(model="fake", messages=[user])
    message = reply.choices[0].message
    for given_back in (message, message.model_dump(), message.model_dump(exclude_none=True)):
        again = await live.openai.chat.completions.create(model="fake", messages=[user, given_back, user])
        assert again.choices[0].message.content == message.content
    prompt = bytes(live.engine.calls[-1].prompt_token_ids).decode()
    assert prompt == "user: hi\nassistant: Hello, wörld\nuser: hi\nassistant: "


async def test_agents_conversation_is_replayed(live):
    messages = [
        {"role": "user", "content": "what is up?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sky"},
    ]
    assert (await live.post("/v1/chat/completions", messages=messages)).status_code == 200
    assert (await live.post("/tokenize", messages=messages)).status_code == 200
    assert b"tool: sky" in bytes(live.engine.calls[0].prompt_token_ids)
