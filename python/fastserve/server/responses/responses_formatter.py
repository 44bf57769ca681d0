"""The words of `/v1/responses`: a response object, or the events of a stream, each with its number."""

import uuid
from collections.abc import Sequence

from fastserve.server.errors import ApiError
from fastserve.server.parsers.message_format import MessageFormat
from fastserve.server.requests.responses_request import ResponsesRequest
from fastserve.server.responses.chat_message import ChatMessageWriter
from fastserve.server.responses.formatter import GatheredChoice
from fastserve.server.responses.generation import Generation
from fastserve.server.responses.sse import to_json
from fastserve.server.server_state import ServerState
from fastserve.types import CompletionDelta, FinishReason

Item = dict[str, object]

# Kind of an item to the kind of its only part, and the events of its text.
_PARTS = {"message": ("output_text", "output_text"), "reasoning": ("reasoning_text", "reasoning_text")}
_ID_PREFIXES = {"message": "msg_", "reasoning": "rs_"}


class ResponsesFormatter:
    """Items of the output: the reasoning, if the model writes any, and the message."""

    def __init__(self, state: ServerState, generation: Generation, body: ResponsesRequest, form: MessageFormat) -> None:
        self._envelope: Item = {
            "id": generation.request_id,
            "object": "response",
            "created_at": generation.created,
            "model": state.model_name,
            "error": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_tokens,
            "metadata": {},
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "store": False,
            "temperature": generation.sampling.temperature,
            "tool_choice": "auto",
            "tools": [],
            "top_p": generation.sampling.top_p,
            "truncation": "disabled",
        }
        self._writer = ChatMessageWriter(form)
        self._number = 0  # of the next event
        self._items: list[Item] = []  # those that have ended
        self._kind = ""  # of the item that is being written
        self._id = ""
        self._pieces: list[str] = []
        self._ended_by: FinishReason | None = None

    def opening(self, choice: int) -> bytes:
        return b""

    def chunk(self, delta: CompletionDelta, usage: dict[str, object] | None) -> bytes:
        out = b""
        if not self._number:
            out = self._event("response.created", response=self._response("in_progress", None))
            out += self._event("response.in_progress", response=self._response("in_progress", None))
        last = delta.finish_reason is not None
        fields = self._writer.delta(delta.text, last=last)
        for kind, name in (("reasoning", "reasoning_content"), ("message", "content")):
            if text := fields.get(name):
                out += self._write(kind, str(text))
        if last:
            self._ended_by = delta.finish_reason
            if self._kind != "message" and not any(item["type"] == "message" for item in self._items):
                out += self._write("message", "")
            out += self._close(_status(delta.finish_reason))
        return out

    def ending(self, usage: dict[str, object], *, include_usage: bool) -> bytes:
        status = _status(self._ended_by)
        return self._event(f"response.{status}", response=self._response(status, usage))

    def failure(self, error: ApiError) -> bytes:
        return self._event("error", code=error.code, message=error.message, param=error.param)

    def whole(self, choices: Sequence[GatheredChoice], usage: dict[str, object]) -> bytes:
        (choice,) = choices
        message, status = self._writer.whole("".join(choice.pieces)), _status(choice.finish_reason)
        self._ended_by = choice.finish_reason
        if reasoning := message.get("reasoning_content"):
            self._items.append(_item("reasoning", _new_id("reasoning"), "completed", str(reasoning)))
        self._items.append(_item("message", _new_id("message"), status, str(message["content"] or "")))
        return to_json(self._response(status, usage))

    def _write(self, kind: str, text: str) -> bytes:
        """Add text to the item of its kind, which begins with it."""
        out = b""
        if kind != self._kind:
            out = self._close("completed")
            self._kind, self._id = kind, _new_id(kind)
            item = _item(kind, self._id, "in_progress", "") | {"content": []}
            out += self._event("response.output_item.added", output_index=len(self._items), item=item)
            out += self._part_event("response.content_part.added", part=_part(kind, ""))
        if text:
            self._pieces.append(text)
            logprobs: Item = {"logprobs": []} if kind == "message" else {}
            out += self._part_event(f"response.{_PARTS[kind][1]}.delta", delta=text, **logprobs)
        return out

    def _close(self, status: str) -> bytes:
        """End the item that is being written, if there is one."""
        if not self._kind:
            return b""
        kind, text = self._kind, "".join(self._pieces)
        item = _item(kind, self._id, status, text)
        logprobs: Item = {"logprobs": []} if kind == "message" else {}
        out = self._part_event(f"response.{_PARTS[kind][1]}.done", text=text, **logprobs)
        out += self._part_event("response.content_part.done", part=_part(kind, text))
        out += self._event("response.output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)
        self._kind = ""
        self._pieces.clear()
        return out

    def _part_event(self, name: str, **fields: object) -> bytes:
        return self._event(name, item_id=self._id, output_index=len(self._items), content_index=0, **fields)

    def _event(self, name: str, **fields: object) -> bytes:
        payload = to_json({"type": name, "sequence_number": self._number} | fields)
        self._number += 1
        return b"event: " + name.encode() + b"\ndata: " + payload + b"\n\n"

    def _response(self, status: str, usage: dict[str, object] | None) -> Item:
        details = {"reason": "max_output_tokens"} if self._ended_by is FinishReason.LENGTH else None
        return self._envelope | {
            "status": status,
            "incomplete_details": details,
            "output": list(self._items),
            "usage": None if usage is None else _usage(usage),
        }


def _status(reason: FinishReason | None) -> str:
    """An answer that was cut or aborted is incomplete."""
    return "completed" if reason is FinishReason.STOP else "incomplete"


def _new_id(kind: str) -> str:
    return _ID_PREFIXES[kind] + uuid.uuid4().hex


def _part(kind: str, text: str) -> Item:
    part: Item = {"type": _PARTS[kind][0], "text": text}
    if kind == "message":
        part |= {"annotations": [], "logprobs": []}
    return part


def _item(kind: str, item_id: str, status: str, text: str) -> Item:
    more: Item = {"role": "assistant"} if kind == "message" else {"summary": []}
    return {"id": item_id, "type": kind, "status": status, "content": [_part(kind, text)]} | more


def _usage(usage: dict[str, object]) -> Item:
    """The counts of `UsageTally.as_json` under the names of this API."""
    details = usage.get("completion_tokens_details") or {"reasoning_tokens": 0}
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": usage["prompt_tokens_details"],
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": details,
        "total_tokens": usage["total_tokens"],
        "fastserve": usage["fastserve"],
    }
