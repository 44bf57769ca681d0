"""`python -m tests.faulty_device serve MODEL FLAGS`: `fastserve serve` over a simulated GPU that can be made to fail.

The device is lost in the next step once the file named by FASTSERVE_TEST_FAULT exists, which it removes. A step takes a
few milliseconds, so that a test can act in the middle of a reply.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fastserve.cli.main import main
from fastserve.config import EngineConfig
from fastserve.engine import async_engine
from fastserve.engine.core import EngineCore
from tests.fake_device import FakeDevice, use_device

FAULT_FILE = "FASTSERVE_TEST_FAULT"
STEP_S = 0.003


class FaultyDevice(FakeDevice):
    """See the module."""

    def scope(self):
        time.sleep(STEP_S)
        fault = Path(os.environ[FAULT_FILE])
        if fault.exists():
            fault.unlink()
            self.fail_in_step(1)
        return super().scope()


def make(config: EngineConfig, *, progress: Callable[[str, int, int], None] | None = None) -> EngineCore:
    """The core of an engine process."""
    use_device(FaultyDevice())
    return EngineCore.from_config(config, progress=progress)


if __name__ == "__main__":
    async_engine.DEFAULT_CORE_FACTORY = "tests.faulty_device:make"
    sys.exit(main(sys.argv[1:]))
