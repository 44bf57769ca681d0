"""`python -m tests.unit.server.fake_serve FLAGS`: `fastserve serve m FLAGS` over a FakeEngine.

Its engine was last heard of a second ago, and gives one token at once and never a second one.
"""

import asyncio
import sys
from collections.abc import Callable

from fastserve.cli.main import main
from fastserve.config import EngineConfig
from fastserve.engine.async_engine import AsyncEngine
from tests.unit.server.fake_engine import FakeEngine, Script


async def start(config: EngineConfig, *, progress: Callable[[str, int, int], None]) -> FakeEngine:
    """In place of AsyncEngine.start."""
    return FakeEngine(Script(pieces=("word ",), endless=True, gate=asyncio.Event()), heartbeat_s=1.0)


if __name__ == "__main__":
    AsyncEngine.start = start
    sys.exit(main(["serve", "m", *sys.argv[1:]]))
