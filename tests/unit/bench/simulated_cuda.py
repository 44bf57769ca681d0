"""Simulated CUDA: tensors asked for on a GPU lie on the CPU, events read the host's clock, a graph replays nothing.

What it is for: the Python of the GPU benchmarks (streams, events, tables, files) runs without a GPU.
"""

import contextlib
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode


class _OnTheCpu(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs["device"] = "cpu"
        if func is torch.Tensor.to and args[1:2] == ("cuda",):
            args = (args[0], "cpu", *args[2:])
        return args[0] if func is torch.Tensor.pin_memory else func(*args, **kwargs)


class Event:
    def __init__(self, enable_timing: bool = False) -> None:
        self._timed = enable_timing

    def record(self, stream: object = None) -> None:
        self._at_s = time.perf_counter()

    def elapsed_time(self, end: "Event") -> float:
        assert self._timed and end._timed
        return 1e3 * (end._at_s - self._at_s)


class Stream:
    cuda_stream = 0

    def synchronize(self) -> None:
        pass


class Graph:
    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


def simulate(monkeypatch: pytest.MonkeyPatch) -> contextlib.AbstractContextManager:
    """Within it there is a GPU; returns what to enter."""
    names = {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": lambda graph: contextlib.nullcontext(),
        "stream": lambda stream: contextlib.nullcontext(),
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "get_device_name": lambda: "Simulated GPU",
        "get_device_properties": lambda device: SimpleNamespace(multi_processor_count=2),
    }
    for name, value in names.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return _OnTheCpu()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A simulated GPU, until the test ends."""
    with simulate(monkeypatch):
        yield
