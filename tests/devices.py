"""Where the kernels under test run."""

from collections.abc import Iterator

import pytest
import torch

from fastserve import _C


def is_simulated(device: torch.device) -> bool:
    """Whether this is the GPU of tests/gpu_simulator/plugin.py, which is slow: a few million instructions per second."""
    return device.type == "cuda" and torch.cuda.get_device_name().startswith("Simulated")


@pytest.fixture(params=["scalar", "avx2", "avx512", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Run a test on the CPU with each instruction set, and on a GPU; what the machine does not have is skipped.

    Tensors that the test makes lie on this device by default.
    """
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
        with torch.device("cuda"):
            yield torch.device("cuda", torch.cuda.current_device())
        return
    before = _C.cpu_isa()
    try:
        _C.set_cpu_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield torch.device("cpu")
    _C.set_cpu_isa(before)


@pytest.fixture(params=["scalar", "avx2", "avx512", "amx"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the kernels of one instruction set, skipping those that the machine does not have."""
    before = _C.cpu_isa()
    try:
        _C.set_cpu_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    _C.set_cpu_isa(before)
