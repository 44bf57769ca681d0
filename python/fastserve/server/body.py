"""From an HTTP request to a checked body, and to the state of its server."""

from starlette.requests import Request

from fastserve.server.json_body import parse_object, read_body
from fastserve.server.schema import BodyT, parse_request
from fastserve.server.serving import Serving


def serving_of(request: Request) -> Serving:
    """The state that `build_app` put into the app."""
    return request.app.state.serving


async def read_request(request: Request, model: type[BodyT]) -> BodyT:
    """Read, parse and check the body.

    Raises:
        ApiError: 400, 408 or 413.
        ClientGoneError: the client left first.
    """
    body = await read_body(request.scope, request.receive, serving_of(request).config.max_body_bytes)
    return parse_request(model, parse_object(body))


def body_schema(model: type[BodyT]) -> dict[str, object]:
    """The model as the `openapi_extra` of a route, which reads its body itself."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": True}}
