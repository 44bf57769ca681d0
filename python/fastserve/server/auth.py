"""Bearer-token check in front of every route, as an ASGI middleware: deny by default."""

from starlette.types import ASGIApp, Receive, Scope, Send

from fastserve.server.errors import ApiError
from fastserve.server.keys import ApiKeys

OPEN_PATHS = frozenset({"/health", "/livez", "/ping", "/readyz"})


class ApiKeyMiddleware:
    """Let a request through when its path is a health route or it brings one of the keys; otherwise 401.

    Anything that is not HTTP (a WebSocket) is refused by not being passed on.
    """

    def __init__(self, app: ASGIApp, *, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN_PATHS):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            if self._admits(scope):
                await self._app(scope, receive, send)
            else:
                error = _denied()
                scope["app"].state.server.count_refusal(scope["path"], error)
                await error.response()(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        credentials = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(credentials) != 1:
            return False
        scheme, _, token = credentials[0].partition(b" ")
        return self._keys.admit(token.strip()) and scheme.lower() == b"bearer"


def _denied() -> ApiError:
    return ApiError(
        401,
        "a valid API key must be sent as 'Authorization: Bearer KEY'",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
