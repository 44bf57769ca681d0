"""A plugin of pytest: tests marked `gpu` without a GPU, their kernels run as compiled PTX by tests/cpp/ptx_machine.

    cmake --preset ptx && cmake --build build/ptx
    FASTSERVE_PRETENDED_GPU=9.0 python -m pytest -p tests.ptx_device -m gpu tests/unit/ops

Of the environment: FASTSERVE_PRETENDED_GPU is the compute capability, 9.0 or 8.0; FASTSERVE_PRETENDED_SEED draws another
order of warps and copies; FASTSERVE_PRETENDED_BUDGET is the most warp instructions of a launch. A test with a larger
launch is skipped, and counted.
"""

import ctypes
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

import pytest

from tests import pretended_cuda

BUILD = Path(__file__).parents[1] / "build" / "ptx" / "csrc"
BUDGET = 60_000_000  # two or three seconds

_over_budget: list[str] = []


def _load_core() -> ctypes.CDLL:
    """Put the extension module of the preset `ptx` in the place of fastserve._C, before anything imports that."""
    assert "fastserve._C" not in sys.modules, "the plugin must come first: python -m pytest -p tests.ptx_device"
    (path,) = BUILD.glob("_C.*.so")
    loader = importlib.machinery.ExtensionFileLoader("fastserve._C", str(path))
    spec = importlib.util.spec_from_file_location("fastserve._C", path, loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fastserve._C"] = module
    loader.exec_module(module)
    return ctypes.CDLL(str(path))


os.environ.setdefault("FASTSERVE_PRETENDED_BUDGET", str(BUDGET))
_capability = os.environ.setdefault("FASTSERVE_PRETENDED_GPU", "9.0")
_runtime = _load_core()
pretended_cuda.install(_runtime, tuple(map(int, _capability.split("."))))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    _runtime.fake_cuda_reset()
    try:
        return (yield)
    except Exception as error:
        if "over the budget of" not in str(error):
            raise
        _over_budget.append(item.nodeid)
        pytest.skip(f"too large for the pretended GPU: {str(error).splitlines()[0]}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"pretended GPU {_capability}: {len(_over_budget)} tests too large")
