"""The message of one choice in OpenAI's shape, as deltas or in one piece."""

from dataclasses import dataclass, field

from fastserve.server.parsers.message_format import MessageFormat, MessageReader
from fastserve.server.parsers.pieces import CallArguments, CallStart, Content, Reasoning
from fastserve.types import FinishReason

TOOL_CALLS = "tool_calls"


@dataclass(slots=True)
class _Call:
    """What a text adds to a call; name and id with its beginning only."""

    index: int
    opening: dict[str, object] = field(default_factory=dict)
    name: dict[str, object] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, object]:
        return self.opening | {"function": self.name | {"arguments": "".join(self.arguments)}}


class ChatMessageWriter:
    """Turns the text of one choice into fields of its message."""

    def __init__(self, form: MessageFormat) -> None:
        self._form = form
        self._reader = MessageReader(form)
        self._num_calls = 0

    def delta(self, text: str, *, last: bool) -> dict[str, object]:
        """The fields that a text adds; none where all of it is held back. `last`: no more text comes."""
        fields, calls = self._read(text, last=last)
        if calls:
            fields[TOOL_CALLS] = [{"index": call.index} | call.as_json() for call in calls]
        return fields

    def whole(self, text: str) -> dict[str, object]:
        """The message of this text alone."""
        fields, calls = self._read(text, last=True)
        message: dict[str, object] = {"role": "assistant", "content": None if fields or calls else ""}
        if calls:
            fields[TOOL_CALLS] = [call.as_json() for call in calls]
        return message | fields

    def finish_reason(self, reason: FinishReason | None) -> str | None:
        """OpenAI's word: a message that ends with calls which the model chose ended for them."""
        if reason is FinishReason.STOP and self._num_calls and not self._form.is_named:
            return TOOL_CALLS
        return reason

    def _read(self, text: str, *, last: bool) -> tuple[dict[str, object], list[_Call]]:
        reasoning: list[str] = []
        content: list[str] = []
        calls: list[_Call] = []
        for piece in self._reader.read(text, last=last):
            match piece:
                case Reasoning(part):
                    reasoning.append(part)
                case Content(part):
                    content.append(part)
                case CallStart(name):
                    calls.append(
                        _Call(self._num_calls, {"id": self._form.new_id(), "type": "function"}, {"name": name})
                    )
                    self._num_calls += 1
                case CallArguments(part):
                    if not calls:
                        calls.append(_Call(self._num_calls - 1))
                    calls[-1].arguments.append(part)
        fields: dict[str, object] = {}
        if reasoning:  # clients know it by either name
            fields["reasoning"] = fields["reasoning_content"] = "".join(reasoning)
        if content:
            fields["content"] = "".join(content)
        return fields, calls
