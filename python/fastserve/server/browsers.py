"""What proxies and browsers need: a prefix of all paths, and leave for pages of other sites to send requests (CORS)."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from fastserve.config import ServerConfig
from fastserve.errors import InvalidArgumentError


def add_cors(app: FastAPI, config: ServerConfig) -> None:
    """Answer preflight requests of the allowed origins, before a key is asked for.

    Raises:
        InvalidArgumentError: the settings have no effect, or let pages of every site act for its users.
    """
    if not config.allowed_origins:
        defaults = ServerConfig()
        for name in ("allowed_methods", "allowed_headers", "allow_credentials"):
            if getattr(config, name) != getattr(defaults, name):
                raise InvalidArgumentError(f"{name} needs allowed_origins, to which it applies")
    elif "*" in config.allowed_origins and config.allow_credentials:
        raise InvalidArgumentError(
            "allow_credentials must not go with allowed_origins *: pages of every site could act for its users;"
            " name the origins"
        )
    else:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allowed_origins,
            allow_methods=config.allowed_methods,
            allow_headers=config.allowed_headers,
            allow_credentials=config.allow_credentials,
        )


class RootPathMiddleware:
    """Take the prefix off the path where the proxy in front has left it there: what is a route already keeps its path."""

    def __init__(self, app: ASGIApp, *, root_path: str, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._root_path = root_path
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            if path.startswith(self._root_path + "/") and not self._is_route(scope):
                scope["path"] = path.removeprefix(self._root_path)  # in place: what answers errors has this scope
        await self._app(scope, receive, send)

    def _is_route(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._routes)
