"""Fixtures of the kernel tests: run a test on every instruction set and every model dtype."""

from collections.abc import Callable, Iterator

import pytest
import torch

from fastserve import _C
from tests.devices import device, isa  # noqa: F401 (fixtures)


@pytest.fixture
def gpu() -> torch.device:
    """The GPU of a test marked `gpu` that compares with the CPU; the test is skipped where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def set_num_threads() -> Iterator[Callable[[int], None]]:
    """Give the kernels another number of threads until the test ends."""
    before = _C.num_threads()
    yield _C.set_num_threads
    _C.set_num_threads(before)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(20260)
