"""The side process that reads long request bodies: parsing and validation hold the GIL, and may take a second.

The request is msgpack: `[name of the body's model, max_model_len, strict_fields, body]`. So is the answer: `[fields, rows, ignored]`,
in JSON what was sent but for the messages, these as `Conversation.template_rows` has them, and the names of unknown fields; or
what `ApiError` is made of.
"""

import os
import sys

import msgspec

from fastserve.server.errors import ApiError, bad_request
from fastserve.server.requests.json_body import parse_object
from fastserve.server.requests.responses_request import ResponsesRequest
from fastserve.server.requests.schema import (
    ChatRequest,
    CompletionRequest,
    Conversation,
    DetokenizeRequest,
    TokenizeRequest,
)
from fastserve.server.requests.validation import parse_request
from fastserve.server.side_processes.side_child import Work, serve_parent

MODELS = {
    model.__name__: model
    for model in (ChatRequest, CompletionRequest, DetokenizeRequest, ResponsesRequest, TokenizeRequest)
}


# Where cores are short, reading a long body is delayed, and not the engine's next step.
NICENESS = 5


def start(setup: bytes) -> Work:
    """Lower this process's priority and return what reads bodies."""
    os.nice(NICENESS)
    return read


def read(request: bytes) -> bytes:
    """Check a body as the server would, and that no list in it is longer than what the server should build."""
    name, max_model_len, strict_fields, body = msgspec.msgpack.decode(request)
    try:
        return _read(name, max_model_len, body, strict_fields=strict_fields)
    except ApiError as error:
        refusal = error
    except MemoryError:
        refusal = bad_request("the body has too many parts; send several requests", code="invalid_value")
    parts = (refusal.status, refusal.message, refusal.kind, refusal.param, refusal.code, refusal.headers)
    return msgspec.msgpack.encode(parts)


def _read(name: str, max_model_len: int, body: bytes, *, strict_fields: bool) -> bytes:
    ignored: list[str] | None = None if strict_fields else []
    model = parse_request(MODELS[name], parse_object(body), ignored)
    model.check_lengths(max_model_len)
    rows = model.template_rows() if isinstance(model, Conversation) and model.messages else b""
    fields = model.model_dump(exclude_unset=True, exclude={"messages"})
    return msgspec.msgpack.encode((msgspec.json.encode(fields), rows, ignored or ()))


if __name__ == "__main__":
    sys.exit(serve_parent(start))
