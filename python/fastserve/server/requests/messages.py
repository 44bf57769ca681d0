"""The messages of a conversation as clients send them, including replies that they send back."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from fastserve.server.errors import ApiError
from fastserve.server.requests.json_body import parse_object

MAX_TOOL_CALLS = 128

Name = Annotated[str, StringConstraints(max_length=256)]
CallId = Annotated[str, StringConstraints(max_length=1024)]

# Clients leave notes of their own in these (a place in a cache, a provider's fields): they ask nothing of the model.
_NOTED = ConfigDict(extra="ignore", strict=True)


class TextPart(BaseModel):
    """A piece of a message's content; text is the only kind."""

    model_config = _NOTED

    type: Literal["text"]
    text: str


class Function(BaseModel):
    """The function that the model called; the arguments are JSON as the model wrote it, or an object."""

    model_config = _NOTED

    name: Name
    arguments: str | dict[str, object] | None = None

    def as_template_value(self) -> dict[str, object]:
        """Chat templates expect the arguments as an object; what the model wrote and is none stays a text."""
        return {"name": self.name, "arguments": _object_of(self.arguments or "{}")}


class ToolCall(BaseModel):
    """One tool call of an assistant's message."""

    model_config = _NOTED

    id: CallId | None = None
    type: Literal["function"] = "function"
    function: Function

    def as_template_value(self) -> dict[str, object]:
        """What chat templates expect."""
        value: dict[str, object] = {"type": self.type, "function": self.function.as_template_value()}
        return value if self.id is None else {"id": self.id} | value


class ChatMessage(BaseModel):
    """One message of a conversation. An assistant's message may have no content if it calls tools instead."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)] | None = Field(default=None, validate_default=True)
    name: Name | None = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=MAX_TOOL_CALLS)] | None = None
    tool_call_id: CallId | None = None
    function_call: Function | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None

    @field_validator("content")
    @classmethod
    def _content_is_there(cls, content: object, info: ValidationInfo) -> object:
        if content is None and info.data.get("role", "assistant") != "assistant":
            raise PydanticKnownError("missing")
        return content

    def as_template_row(self) -> dict[str, object]:
        """What chat templates expect: plain text, and `system` for OpenAI's newer `developer`; nothing is None."""
        row: dict[str, object] = {"role": "system" if self.role == "developer" else self.role, "content": self._text()}
        if self.name is not None:
            row["name"] = self.name
        if self.tool_calls:
            row["tool_calls"] = [call.as_template_value() for call in self.tool_calls]
        if self.tool_call_id is not None:
            row["tool_call_id"] = self.tool_call_id
        if self.function_call is not None:
            row["function_call"] = self.function_call.as_template_value()
        if reasoning := self.reasoning_content or self.reasoning:  # templates know it under either name
            row["reasoning"] = row["reasoning_content"] = reasoning
        return row

    def _text(self) -> str:
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


Messages = Annotated[list[ChatMessage], Field(fail_fast=True)]


def _object_of(arguments: str | dict[str, object]) -> str | dict[str, object]:
    if isinstance(arguments, dict):
        return arguments
    try:
        return parse_object(arguments.encode())
    except ApiError:
        return arguments
