"""The body of `/v1/responses`, OpenAI's Responses API: a chat under other names. Text alone; nothing is stored."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from fastserve.server.errors import bad_request
from fastserve.server.requests.body_shape import MAX_MESSAGES
from fastserve.server.requests.ignored_fields import ANY, CHAT_NOOP_VALUES
from fastserve.server.requests.schema import ChatRequest

_NO_TOOLS = "tools are not supported on this route: leave them out, or use /v1/chat/completions"
_NOT_STORED = "responses are not stored: send the whole conversation as input"
_ROLES = ("user", "assistant", "system", "developer")
_OF_CHATS = ("messages", "max_tokens", "max_completion_tokens", "response_format", "n", "logprobs", "prompt_logprobs",
             "return_token_ids")  # fmt: skip
_TEXT_PARTS = ("input_text", "output_text", "text")

# What this route has besides the fields of a chat, and the values that mean "not used".
_NOOP_VALUES = CHAT_NOOP_VALUES | {
    "include": (ANY,),
    "max_tool_calls": (ANY,),
    "prompt_cache_retention": (ANY,),
    "background": (False,),
    "truncation": ("disabled",),
    "top_logprobs": (0,),
    "stream_options": (ANY,),
    "tool_choice": ("auto", "none"),
    "parallel_tool_calls": (ANY,),
}


class ResponsesRequest(ChatRequest):
    """A chat, made by `translate` of what the client sent. What is not OpenAI's has the names that it has in a chat.

    Attributes:
        instructions: the system message, which the reply repeats.
    """

    noop_values: ClassVar[dict[str, tuple[object, ...]]] = {
        name: values for name, values in _NOOP_VALUES.items() if name != "verbosity"
    }
    id_prefix: ClassVar[str] = "resp_"

    instructions: str | None = None

    @classmethod
    def translate(cls, body: Mapping[str, object]) -> dict[str, object]:
        """The fields of a chat.

        Raises:
            ApiError: 400 that names the field as the client sent it.
        """
        given = {name: value for name, value in body.items() if value is not None}
        for name in ("previous_response_id", "conversation", "prompt"):
            if name in given:
                raise bad_request(f"{name} is not supported; {_NOT_STORED}", name, "unsupported")
        if given.pop("tools", None):
            raise bad_request(_NO_TOOLS, "tools", "unsupported")
        for name in _OF_CHATS:
            if name in given:
                raise bad_request(f"{name} belongs to /v1/chat/completions; leave it out", name, "unsupported")
        if "input" not in given:
            raise bad_request("input is required", "input", "missing_field")
        instructions = given.get("instructions")
        if not isinstance(instructions, str | None):
            raise bad_request("instructions must be a text", "instructions", "invalid_value")
        system = [] if instructions is None else [{"role": "system", "content": instructions}]
        translated = given | {"messages": system + _messages(given.pop("input"))}
        for name, change in _CHANGES.items():
            if name in given:
                del translated[name]
                translated |= change(given[name])
        return {name: value for name, value in translated.items() if name != "input"}


def _messages(sent: object) -> list[dict[str, object]]:
    if isinstance(sent, str):
        return [{"role": "user", "content": sent}]
    if not isinstance(sent, list) or not 1 <= len(sent) < MAX_MESSAGES:
        raise bad_request(f"input must be a text, or a list of 1 to {MAX_MESSAGES - 1} items", "input", "invalid_value")
    # The reasoning of earlier replies comes back in items of its own, which no template needs.
    return [
        _message(item, f"input[{i}]")
        for i, item in enumerate(sent)
        if not (isinstance(item, dict) and item.get("type") == "reasoning")
    ]


def _message(item: object, where: str) -> dict[str, object]:
    if not isinstance(item, dict):
        raise bad_request(f"{where} must be an object, got {type(item).__name__}", where, "invalid_value")
    kind = item.get("type", "message")
    if kind != "message":
        what = _NO_TOOLS if isinstance(kind, str) and "call" in kind else "messages are the only kind of item"
        raise bad_request(f"{where}.type {kind!r:.60} is not supported; {what}", f"{where}.type", "unsupported")
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        raise bad_request(f"{where}.role must be one of {', '.join(_ROLES)}", f"{where}.role", "invalid_value")
    if isinstance(content, list):
        content = [_part(part, f"{where}.content[{i}]") for i, part in enumerate(content)]
    elif not isinstance(content, str):
        message = f"{where}.content must be a text or a list of parts"
        raise bad_request(message, f"{where}.content", "invalid_value")
    return {"role": role, "content": content}


def _part(part: object, where: str) -> dict[str, object]:
    if not isinstance(part, dict) or part.get("type") not in _TEXT_PARTS:
        raise bad_request(f"{where}: text is the only kind of content", f"{where}.type", "unsupported")
    if not isinstance(part.get("text"), str):
        raise bad_request(f"{where}.text must be a text", f"{where}.text", "invalid_value")
    return {"type": "text", "text": part["text"]}


def _text(value: object) -> dict[str, object]:
    """`text`: the format of the output, under its name in a chat."""
    if not isinstance(value, dict):
        raise bad_request("text must be an object", "text", "invalid_value")
    form = value.get("format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        inner = {name: part for name, part in form.items() if name != "type"}
        form = {"type": "json_schema", "json_schema": inner}
    return {} if form is None else {"response_format": form}


def _reasoning(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise bad_request("reasoning must be an object", "reasoning", "invalid_value")
    effort = value.get("effort")
    return {} if effort is None else {"reasoning_effort": effort}


_CHANGES: dict[str, Callable[[Any], dict[str, object]]] = {
    "max_output_tokens": lambda value: {"max_tokens": value},
    "text": _text,
    "reasoning": _reasoning,
}

_OBJECT = {"type": "object"}
RESPONSES_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["input"],
    "additionalProperties": False,
    "properties": {
        "model": {"type": "string"},
        "input": {"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": _OBJECT}]},
        "instructions": {"type": "string"},
        "max_output_tokens": {"type": "integer"},
        "temperature": {"type": "number"},
        "top_p": {"type": "number"},
        "text": dict(_OBJECT),
        "reasoning": dict(_OBJECT),
        "stream": {"type": "boolean"},
    },
}
