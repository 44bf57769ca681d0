"""From an HTTP request to a checked body, and to the state of its server."""

import re

from starlette.requests import Request

from fastserve.server.requests.json_body import parse_object, read_body
from fastserve.server.requests.validation import BodyT, parse_request
from fastserve.server.server_state import ServerState

# Reading the worst body of this size takes a few milliseconds; a side process and the way to it take less than one.
INLINE_BODY_BYTES = 16 * 1024
MAX_NAMES = 8  # in a header
_IGNORED = "fastserve.ignored_fields"  # of a scope: names of unknown fields
_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}")
_NO_NAME = re.compile(r"[^A-Za-z0-9_.\[\]-]")


def state_of(request: Request) -> ServerState:
    """The state that `build_app` put into the app."""
    state: ServerState = request.app.state.server
    return state


async def read_request(request: Request, model: type[BodyT]) -> BodyT:
    """Read, parse and check the body.

    Raises:
        ApiError: 400, 408 or 413.
        ClientGoneError: the client left first.
        OverloadedError, EngineDeadError, RequestFailedError: it cannot be checked now.
    """
    state = state_of(request)
    body = await read_body(request.scope, request.receive, state.config.max_body_bytes)
    ignored: list[str] | None = None if state.config.strict_fields else []
    if len(body) <= INLINE_BODY_BYTES:
        checked = parse_request(model, parse_object(body), ignored)
    else:
        checked = await state.body_reader.read(model, body, state.ready_engine().info.max_model_len, ignored)
    if ignored:
        state.log_ignored(ignored)
        request.scope[_IGNORED] = ignored
    return checked


def warning_headers(request: Request) -> dict[str, str]:
    """The header that names the unknown fields of a body which were ignored, if any."""
    ignored = request.scope.get(_IGNORED)
    if not ignored:
        return {}
    names = [_NO_NAME.sub("?", name) for name in ignored]
    shown = ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
    return {"Warning": f'299 fastserve "ignored unknown fields: {shown}"'}


def sent_id(request: Request) -> str | None:
    """The name that the client, or a proxy, has given the request in `X-Request-Id`; what is no name is passed over."""
    sent = request.headers.get("x-request-id", "")
    return sent if _ID.fullmatch(sent) else None


def reply_headers(request: Request) -> dict[str, str]:
    """The headers of a reply that come from its request: the client's own name for it, and the warning."""
    sent = sent_id(request)
    return warning_headers(request) | ({} if sent is None else {"X-Request-Id": sent})


def body_schema(model: type[BodyT]) -> dict[str, object]:
    """The model as the `openapi_extra` of a route, which reads its body itself."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    content = {"application/json": {"schema": _without_references(schema, definitions)}}
    return {"requestBody": {"content": content, "required": True}}


def _without_references(schema: object, definitions: dict[str, object]) -> object:
    """Put the definitions in the place of their references, which would point nowhere in the OpenAPI document."""
    if isinstance(schema, list):
        return [_without_references(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if (reference := schema.get("$ref")) is not None:
        return _without_references(definitions[reference.rpartition("/")[2]], definitions)
    return {name: _without_references(item, definitions) for name, item in schema.items()}
