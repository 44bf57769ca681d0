"""`python -m tests.unit.server.fake_server MODE SHUTDOWN_TIMEOUT RESTARTS`: a server process over a FakeEngine.

Modes: slow (20 ms per token), hang (never a second token), dies (the engine ends 0.2 s after a request starts),
loading (the engine takes 0.5 s to start), broken (it does not start), stuck (closing the engine never
returns), stands-still (the first engine's loop does not
turn once a request has started), breaks (the first engine dies, the second does not start). RESTARTS is the number of
engines that may replace another, 0 for none.
"""

import asyncio
import itertools
import sys

from fastserve.config import ServerConfig
from fastserve.errors import CheckpointError
from fastserve.log import configure_logging
from fastserve.server import restarts
from fastserve.server.lifecycle import serve
from tests.unit.server.fake_engine import FakeEngine, Script

background: set[asyncio.Task] = set()
starts = itertools.count(1)


async def start(mode: str) -> FakeEngine:
    """The engine of a mode."""
    start_number = next(starts)
    if mode == "broken" or (mode == "breaks" and start_number == 2):
        raise CheckpointError("model.safetensors is truncated")
    if mode == "loading":
        await asyncio.sleep(0.5)
    script = Script(pieces=("word ",), endless=True, delay_s=0.02)
    ends = mode == "dies" or (mode in ("breaks", "stands-still") and start_number == 1)
    if mode == "hang" or ends:
        script.gate = asyncio.Event()
    engine = FakeEngine(script, stuck=mode == "stuck")
    if ends:
        background.add(asyncio.create_task(end_when_used(engine, mode)))
    return engine


async def end_when_used(engine: FakeEngine, mode: str) -> None:
    """End the engine, or let it stand still, shortly after its first request."""
    while not engine.running:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    if mode == "stands-still":
        engine.heartbeat_s = 1000.0
    else:
        engine.is_alive, engine.death = False, "the fake died"


def main() -> int:
    """Serve until a signal stops it."""
    mode, timeout, num_restarts = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    configure_logging("info")
    restarts.PAUSE_S = 0.05
    config = ServerConfig(
        port=0, shutdown_timeout=timeout, restart_engine=num_restarts > 0, max_engine_restarts=max(num_restarts, 1)
    )
    return serve(lambda: start(mode), config, "fake")


if __name__ == "__main__":
    sys.exit(main())
