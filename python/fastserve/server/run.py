"""Serve a model: the entry point of `fastserve serve`."""

import asyncio
import gc
import logging
from collections.abc import Sequence
from contextlib import closing
from typing import NoReturn

from fastserve.config import EngineConfig, ServerConfig
from fastserve.engine.async_engine import AsyncEngine
from fastserve.engine.console import StartProgress
from fastserve.log import configure_logging, get_logger
from fastserve.server.ending import leave
from fastserve.server.lifecycle import serve

logger = get_logger(__name__)


def run_server(engine_config: EngineConfig, server_config: ServerConfig, *, notes: Sequence[str] = ()) -> NoReturn:
    """Load the model, serve it until a signal, and end the process with the exit code of `lifecycle.serve`.

    Args:
        notes: what there is to say of the configuration; one line each in the log.
    """
    configure_logging(server_config.log_level, json_lines=server_config.json_logs)
    for note in notes:
        logger.info("%s", note)
    # What uvicorn has to say (a bug in a route, a cut connection) goes to the same place in the same form.
    uvicorn_log = logging.getLogger("uvicorn")
    uvicorn_log.handlers[:] = logging.getLogger("fastserve").handlers
    uvicorn_log.setLevel(server_config.uvicorn_log_level.upper())
    uvicorn_log.propagate = False
    logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)

    async def start() -> AsyncEngine:
        with closing(StartProgress()) as progress:
            engine = await AsyncEngine.start(engine_config, progress=progress)
        # What is there now stays: a full collection would walk all of it, some 50 ms in the middle of streams.
        gc.collect()
        gc.freeze()
        return engine

    leave(serve(start, server_config, engine_config.model.model))


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """A request that is cut off when the server ends is no bug, and needs no traceback."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)
