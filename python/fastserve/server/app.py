"""The ASGI application."""

import functools

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fastserve import __version__
from fastserve.config import ServerConfig
from fastserve.errors import FastServeError
from fastserve.log import get_logger
from fastserve.server import generate_routes, health_routes, info_routes
from fastserve.server.auth import ApiKeyMiddleware
from fastserve.server.browsers import RootPathMiddleware, add_cors
from fastserve.server.errors import ApiError, ClientGoneError, to_api_error
from fastserve.server.keys import ApiKeys
from fastserve.server.protocols import EngineProtocol
from fastserve.server.requests.openapi import describe
from fastserve.server.requests.request_body import state_of
from fastserve.server.server_state import ServerState

logger = get_logger(__name__)


def build_app(engine: EngineProtocol | None, config: ServerConfig, model_name: str) -> FastAPI:
    """Build the app; `app.state.server` holds its `ServerState`, `app.state.keys` its `ApiKeys`.

    Args:
        engine: a running engine; None = attach one later with `app.state.server.attach`, 503 until then.
        config: limits, keys, names of metrics. Host, port and timeouts are for `run_server`.
        model_name: the model's name in the API, where the configuration gives none.

    Raises:
        InvalidArgumentError: the keys cannot be used; see `ApiKeys`.
    """
    # No /docs: its page would load scripts from elsewhere. /openapi.json needs the key like every other route. The app
    # knows nothing of the root path, which FastAPI would take off twice.
    app = FastAPI(
        title="FastServe",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": config.root_path}] if config.root_path else None,
        openapi_url=None if config.disable_fastapi_docs else "/openapi.json",
    )
    app.state.server = ServerState(config, model_name, engine)
    for routes in (generate_routes, info_routes, health_routes):
        app.include_router(routes.router)
    for kind in (ApiError, ClientGoneError, HTTPException, FastServeError, Exception):
        app.add_exception_handler(kind, _answer_error)
    app.add_middleware(HeadAsGetMiddleware)
    app.state.keys = ApiKeys(config)
    app.openapi = functools.cache(  # type: ignore[method-assign]  # as FastAPI says to do it
        functools.partial(describe, app, with_key=bool(app.state.keys), strict_fields=config.strict_fields)
    )
    if app.state.keys:
        app.add_middleware(ApiKeyMiddleware, keys=app.state.keys)
    add_cors(app, config)
    if config.root_path:
        app.add_middleware(RootPathMiddleware, root_path=config.root_path, routes=app.routes)
    return app


class HeadAsGetMiddleware:
    """Answer HEAD as GET; uvicorn leaves the body of the reply out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, send)


async def _answer_error(request: Request, error: Exception) -> Response:
    """Answer what failed before a generation began; `GenerationResponse` answers the rest."""
    described = to_api_error(error)
    if isinstance(error, ClientGoneError):
        logger.debug("a client left while it sent its request")
    else:
        state_of(request).count_refusal(request.scope["path"], described)
    return described.response()
