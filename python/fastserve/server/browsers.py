"""What proxies and browsers need: a prefix of all paths, and leave for pages of other sites to send requests (CORS)."""

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from fastserve.config import ServerConfig


def add_cors(app: FastAPI, config: ServerConfig) -> None:
    """Answer preflight requests of the allowed origins, before a key is asked for."""
    if config.allowed_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.allowed_origins,
            allow_methods=config.allowed_methods,
            allow_headers=config.allowed_headers,
            allow_credentials=config.allow_credentials,
        )


class RootPathMiddleware:
    """Take the prefix off the path where the proxy in front has left it there."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(self._root_path + "/"):
            scope = {**scope, "path": scope["path"].removeprefix(self._root_path)}
        await self._app(scope, receive, send)
