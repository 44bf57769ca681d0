"""Bearer-token check in front of every route, as an ASGI middleware: deny by default."""

import hashlib
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from fastserve.server.errors import ApiError

OPEN_PATHS = frozenset({"/health", "/livez", "/readyz"})


class ApiKeyMiddleware:
    """Let a request through when its path is a health route or it brings the key; otherwise 401.

    Digests are compared, in constant time, so neither the length nor a prefix of the key leaks through timing.
    Anything that is not HTTP (a WebSocket) is refused by not being passed on.
    """

    def __init__(self, app: ASGIApp, *, api_key: str) -> None:
        self._app = app
        self._digest = _digest(api_key.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN_PATHS):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            if self._admits(scope):
                await self._app(scope, receive, send)
            else:
                await _denied()(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        credentials = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(credentials) != 1:
            return False
        scheme, _, token = credentials[0].partition(b" ")
        return hmac.compare_digest(_digest(token.strip()), self._digest) and scheme.lower() == b"bearer"


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _denied() -> ASGIApp:
    error = ApiError(
        401,
        "a valid API key must be sent as 'Authorization: Bearer KEY'",
        kind="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
    return error.response()
