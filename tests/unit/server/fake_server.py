"""`python -m tests.unit.server.fake_server MODE SHUTDOWN_TIMEOUT`: a server process over a FakeEngine, for signal tests.

Modes: slow (20 ms per token), hang (never a second token), dies (the engine ends 0.2 s after a request starts),
loading (the engine takes 0.5 s to start), broken (it does not start).
"""

import asyncio
import sys

from fastserve.config import ServerConfig
from fastserve.errors import CheckpointError
from fastserve.log import configure_logging
from fastserve.server.lifecycle import serve
from tests.unit.server.fake_engine import FakeEngine, Script

background: set[asyncio.Task] = set()


async def start(mode: str) -> FakeEngine:
    """The engine of a mode."""
    if mode == "broken":
        raise CheckpointError("model.safetensors is truncated")
    if mode == "loading":
        await asyncio.sleep(0.5)
    script = Script(pieces=("word ",), endless=True, delay_s=0.02)
    if mode in ("hang", "dies"):
        script.gate = asyncio.Event()
    engine = FakeEngine(script)
    if mode == "dies":
        background.add(asyncio.create_task(die_when_used(engine)))
    return engine


async def die_when_used(engine: FakeEngine) -> None:
    """End the engine shortly after its first request."""
    while not engine.running:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    engine.is_alive = False


def main() -> int:
    """Serve until told to stop."""
    mode, timeout = sys.argv[1], float(sys.argv[2])
    configure_logging("info")
    config = ServerConfig(port=0, shutdown_timeout=timeout)
    return serve(lambda: start(mode), config, "fake")


if __name__ == "__main__":
    sys.exit(main())
