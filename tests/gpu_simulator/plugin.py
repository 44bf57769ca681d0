"""A plugin of pytest: tests marked `gpu` without a GPU, their kernels run as compiled PTX by tests/gpu_simulator/ptx.

    cmake -S tests/gpu_simulator --preset gpu-sim && cmake --build build/gpu-sim --target _C
    python -m pytest -p tests.gpu_simulator.plugin -m "gpu and not slow" tests/unit/ops tests/unit/offload

Of the environment: GPU_SIMULATOR_CAPABILITY is the compute capability, 9.0 (the default) or 8.0;
GPU_SIMULATOR_SEED draws another order of warps and copies; GPU_SIMULATOR_BUDGET is the most warp
instructions of a launch. A test with a larger launch is skipped and counted; those known for it are not begun.
"""

import ctypes
import importlib.machinery
import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest

from tests.gpu_simulator import torch_cuda

BUILD = Path(__file__).parents[2] / "build" / "gpu-sim" / "fastserve" / "csrc"
BUDGET = 60_000_000  # two or three seconds

KNOWN_TOO_LARGE = re.compile(
    r"test_the_kernels_of_this_gpu_pass\[(fp32-.*|.*-naive)\]"  # prefill of many tiles by the naive kernel
    r"|test_contexts_up_to_32k\[\d{4,}-cuda-naive\]"
    r"|test_batches_up_to_256_rows\[256-cuda-naive\]"
    r"|test_a_top_k_of_much_of_the_vocabulary\[cuda-20000\]"
)
NO_KERNEL_OF_OURS = re.compile(r"-torch\]$|test_a_real_fault_of_a_gpu")

_num_too_large = 0


def _load_core() -> ctypes.CDLL:
    """Put the extension module of the GPU simulator in the place of fastserve._C, before anything imports that."""
    assert "fastserve._C" not in sys.modules, (
        "the plugin must come first: python -m pytest -p tests.gpu_simulator.plugin"
    )
    paths = list(BUILD.glob("_C.*.so"))
    assert len(paths) == 1, (
        f"{BUILD} must hold one _C: cmake -S tests/gpu_simulator --preset gpu-sim && cmake --build build/gpu-sim --target _C"
    )
    loader = importlib.machinery.ExtensionFileLoader("fastserve._C", str(paths[0]))
    spec = importlib.util.spec_from_file_location("fastserve._C", paths[0], loader=loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fastserve._C"] = module
    loader.exec_module(module)
    return ctypes.CDLL(str(paths[0]))


os.environ.setdefault("GPU_SIMULATOR_BUDGET", str(BUDGET))
_capability = os.environ.setdefault("GPU_SIMULATOR_CAPABILITY", "9.0")
_runtime = _load_core()
torch_cuda.install(_runtime, tuple(map(int, _capability.split("."))))
if (_site := str(Path(__file__).parent / "site")) not in sys.path:
    sys.path.insert(0, _site)  # processes that get our path start by importing this plugin


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not NO_KERNEL_OF_OURS.search(item.nodeid)]
    for item in items:
        if KNOWN_TOO_LARGE.search(item.nodeid):
            item.add_marker(pytest.mark.skip(reason="too large for the simulated GPU"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item):
    global _num_too_large  # noqa: PLW0603
    _runtime.gpu_simulator_reset()
    try:
        return (yield)
    except Exception as error:
        if "over the budget of" not in str(error):
            raise
        _num_too_large += 1
        pytest.skip(f"too large for the simulated GPU: {str(error).splitlines()[0]}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"simulated GPU {_capability}: {_num_too_large} tests found too large")
