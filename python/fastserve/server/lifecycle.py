"""Life of a server from its socket to its exit code: load, serve, drain on a signal, replace a dead engine or exit."""

import asyncio
import contextlib
import functools
import signal
import time
from collections.abc import Awaitable, Callable, Iterator

import uvicorn

from fastserve.config import ServerConfig
from fastserve.errors import EngineDeadError, FastServeError
from fastserve.log import get_logger
from fastserve.server.app import build_app
from fastserve.server.descriptors import DescriptorWatch
from fastserve.server.ending import UnawaitedThreads, end_within
from fastserve.server.errors import DrainingError
from fastserve.server.http_protocol import GuardedHttpProtocol
from fastserve.server.listening import address, is_local, open_sockets, remove_path
from fastserve.server.protocols import EngineProtocol
from fastserve.server.restarts import RestartBudget
from fastserve.server.server_state import ServerState
from fastserve.server.tls import tls_settings

ENGINE_WATCH_PERIOD_S = 0.25
# Time for replies that are already written, or about to be, to reach their clients.
GOODBYE_S = 1.0
# Of the shutdown timeout, kept for the end itself: goodbyes, the engine's, a slow machine.
END_S = 3.0
ENGINE_GRACE_S = 1.0
KEEP_ALIVE_S = 30
LAST_WORDS_S = 0.3

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_FORCED = 130

logger = get_logger(__name__)

StartEngine = Callable[[], Awaitable[EngineProtocol]]


def serve(start_engine: StartEngine, config: ServerConfig, model_name: str) -> int:
    """Serve until a signal or the engine's end; returns the process's exit code.

    0 after a drain, 1 when the address is taken, the engine does not start or dies for good, 130 after a second signal.
    """
    server = LiveServer(start_engine, config, model_name)
    with asyncio.Runner(loop_factory=server.loop_factory()) as runner:
        return runner.run(server.run())


class LiveServer:
    """One run of `serve`; `run` must be awaited on the main thread, which receives the signals."""

    def __init__(self, start_engine: StartEngine, config: ServerConfig, model_name: str) -> None:
        self._start_engine = start_engine
        self._config = config
        app = build_app(None, config, model_name)
        self._state: ServerState = app.state.server
        self._has_keys = bool(app.state.keys)
        self._descriptors = DescriptorWatch()
        self._http = _HttpServer(
            uvicorn.Config(
                app,
                http=functools.partial(  # type: ignore[arg-type]  # called as the class is
                    GuardedHttpProtocol,
                    max_body_bytes=config.max_body_bytes,
                    descriptors=self._descriptors,
                    on_refused=self._state.count_refusal,
                ),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=round(GOODBYE_S),
                **tls_settings(config),
            )
        )
        self._exit_code = EXIT_OK
        self._engine_grace_s = ENGINE_GRACE_S
        self._stopping: asyncio.Task[None] | None = None
        self._restarts = RestartBudget(config.max_engine_restarts if config.restart_engine else 0)

    def loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        """uvloop where it is installed."""
        return self._http.config.get_loop_factory()

    async def run(self) -> int:
        """Serve; returns the exit code."""
        try:
            sockets = open_sockets(self._config)
        except OSError as error:
            where = self._config.uds or f"{self._config.host} port {self._config.port}"
            logger.error("cannot listen on %s: %s", where, error)
            return EXIT_FAILED
        for sock in sockets:
            # Printed whatever the log level: what this process exposes must not be a guess.
            print(f"listening on {address(sock, tls=self._http.config.is_ssl)}", flush=True)
        if not self._has_keys and not all(is_local(sock) for sock in sockets):
            logger.warning(
                "anyone who reaches this address may use the model: set FASTSERVE_API_KEY or --api-keys-file"
            )
        loop = asyncio.get_running_loop()
        loop.set_default_executor(UnawaitedThreads(thread_name_prefix="fastserve-blocking"))
        loop.set_exception_handler(self._descriptors.on_loop_exception)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        engine_life = asyncio.create_task(self._run_engines())
        try:
            await self._http.serve(sockets)
        finally:
            engine_life.cancel()
            await asyncio.gather(engine_life, return_exceptions=True)
            self._state.close()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        return self._exit_code

    async def _run_engines(self) -> None:
        """Attach the first engine and those that replace it; stop the server when none is left."""
        engine = await self._start()
        while engine is not None:
            try:
                replace = await self._live_with(engine)
            finally:
                await engine.close(grace_s=self._engine_grace_s)  # a new one needs its memory
            if not replace:
                return
            engine = await self._start_again()
        self._fail()

    async def _start(self) -> EngineProtocol | None:
        """An engine, or None after saying why there is none."""
        try:
            return await self._start_engine()
        except (FastServeError, OSError, ValueError) as error:
            logger.error("the engine did not start: %s", error)
        except Exception:
            logger.exception("the engine did not start")
        return None

    async def _start_again(self) -> EngineProtocol | None:
        """A new engine for the restart that was taken, or for one of those that are left."""
        while True:
            self._state.metrics.engine_restarts.inc()
            await asyncio.sleep(self._restarts.pause_s)
            engine = await self._start()
            if engine is not None or not self._take_restart():
                return engine

    def _take_restart(self) -> bool:
        return not self._state.draining and self._restarts.take(time.monotonic())

    async def _live_with(self, engine: EngineProtocol) -> bool:
        """Serve with an engine until it dies, fail its requests, and return whether another one should replace it."""
        self._state.attach(engine)
        logger.info("serving %s", self._state.model_name)
        while engine.is_alive and not self._hangs(engine):
            await asyncio.sleep(ENGINE_WATCH_PERIOD_S)
        reason = await self._why_stopped(engine)
        logger.error("the engine has stopped, %d requests are lost: %s", len(self._state.in_flight), reason)
        self._state.in_flight.interrupt_all(EngineDeadError(f"the engine has stopped; the request is lost: {reason}"))
        if self._take_restart():
            logger.warning("starting a new engine")
            self._state.detach()
            return True
        await asyncio.sleep(GOODBYE_S)
        self._fail()
        return False

    @staticmethod
    async def _why_stopped(engine: EngineProtocol) -> str:
        if engine.is_alive:
            return "its loop does not turn any more"
        if engine.death is None:  # the process is seen to end before its last message has come
            await asyncio.sleep(LAST_WORDS_S)
        return engine.death or "its process has ended"

    def _hangs(self, engine: EngineProtocol) -> bool:
        """Whether to replace an engine whose loop makes no steps; /livez reports it in any case."""
        return self._config.restart_engine and engine.heartbeat_age_s() > self._config.heartbeat_limit_s

    def _fail(self) -> None:
        self._exit_code = EXIT_FAILED
        self._stop_listening()

    def _stop_listening(self) -> None:
        """End the HTTP server. The file of its socket goes while it still listens: later it may be a successor's."""
        if not self._http.should_exit:
            remove_path(self._config)
        self._http.should_exit = True

    def _on_signal(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._stopping is None:
            timeout_s = self._config.shutdown_timeout
            drain_s = max(timeout_s - END_S, 0.0)
            logger.info("%s: no new requests; %d may finish within %g s", name, len(self._state.in_flight), drain_s)
            self._state.draining = True
            end_within(max(timeout_s, END_S))
            self._stopping = asyncio.create_task(self._drain(drain_s))
        else:
            logger.warning("%s again: aborting %d requests", name, len(self._state.in_flight))
            self._exit_code = EXIT_FORCED
            self._engine_grace_s = 0.0
            end_within(END_S)
            self._stopping.cancel()
            self._abort_all()

    async def _drain(self, timeout_s: float) -> None:
        """Let running requests finish, then stop; new requests get 503 meanwhile."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._state.in_flight.wait_empty()
        except TimeoutError:
            logger.warning("%d requests did not finish in time and are aborted", len(self._state.in_flight))
            self._abort_all()
        self._stop_listening()

    def _abort_all(self) -> None:
        self._state.in_flight.interrupt_all(DrainingError("the server is shutting down; the request was aborted"))
        self._stop_listening()


class _HttpServer(uvicorn.Server):
    """uvicorn without its own signal handling, which would cut running requests off."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
