"""Which device a worker gets, and what it says where there is none."""

import contextlib
import inspect
import re
import types
from collections.abc import Iterator

import pytest
import torch

from fastserve import _C
from fastserve.errors import DeviceError, InvalidArgumentError
from fastserve.worker import device as device_module
from fastserve.worker.device import CpuDevice, CudaDevice, cuda_problem, open_device

HAS_GPU = bool(_C.cuda_devices())


def simulate(monkeypatch, *, problem: str = "", devices: list | None = None, torch_cuda: str | None = "13.0",
            available: bool = True) -> None:  # fmt: skip
    """Let the core and torch report another machine."""
    core = types.SimpleNamespace(cuda_problem=lambda: problem, cuda_devices=lambda: devices or [])
    monkeypatch.setattr(device_module, "_C", core)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)


H200 = {"name": "NVIDIA H200", "compute_capability": (9, 0), "memory_bytes": 1 << 37}
T4 = {"name": "Tesla T4", "compute_capability": (7, 5), "memory_bytes": 1 << 34}


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_cuda_on_a_machine_without_a_driver_says_what_is_missing():
    expected = "no NVIDIA driver|shows no GPU|has no CUDA|needs"
    with pytest.raises(DeviceError, match=f"device cuda cannot be used: .*({expected})"):
        open_device("cuda")


@pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")
def test_auto_takes_the_cpu_where_there_is_no_gpu():
    assert isinstance(open_device("auto"), CpuDevice)
    assert isinstance(open_device("cpu"), CpuDevice)


def test_another_word_is_refused():
    with pytest.raises(InvalidArgumentError, match="auto, cpu or cuda, got tpu"):
        open_device("tpu")


@pytest.mark.parametrize(
    "machine, text",
    [
        ({"problem": "no NVIDIA driver was found"}, "no NVIDIA driver"),
        ({"devices": [T4]}, "Tesla T4 has compute capability 7.5, the kernels need 8.0"),
        ({"devices": [H200], "torch_cuda": None}, "torch is a CPU build"),
        ({"devices": [H200], "available": False}, "cannot use the GPU"),
        ({"devices": [H200]}, "^$"),
    ],
)
def test_each_obstacle_has_a_message(monkeypatch, machine, text):
    simulate(monkeypatch, **machine)
    assert re.search(text, cuda_problem())


def test_auto_takes_the_cpu_and_says_why_when_a_gpu_cannot_be_used(monkeypatch, caplog):
    simulate(monkeypatch, devices=[T4])
    with caplog.at_level("WARNING", logger="fastserve"):
        assert isinstance(open_device("auto"), CpuDevice)
    assert "Tesla T4" in caplog.text
    with pytest.raises(DeviceError, match="Tesla T4"):
        open_device("cuda")


@pytest.mark.parametrize(
    ("error", "lost", "is_fault"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False, True),
        (DeviceError("attention.cu:7: launch failed"), False, True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"), True, True),
        (RuntimeError("a bug"), False, False),
        (torch.OutOfMemoryError("CUDA out of memory"), True, False),
        (torch.AcceleratorError("CUDA error: out of memory, for a graph"), False, False),
    ],
)
def test_a_fault_is_recognised_by_its_type_or_by_a_stream_that_does_not_answer(error, lost, is_fault):
    def query() -> bool:
        if lost:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        return True

    if "graph" in str(error):
        error.error_code = device_module.MEMORY_ALLOCATION_ERROR  # as torch sets it
    device = object.__new__(CudaDevice)
    device._stream = types.SimpleNamespace(query=query)
    assert device.is_fault(error) == is_fault


def test_a_step_runs_once_before_it_is_captured_and_captures_share_their_memory(monkeypatch):
    """Kernels are loaded and libraries set up by their first run, which a capture does not allow."""
    events = []
    signature = inspect.signature(torch.cuda.graph)

    class FakeGraph:
        def pool(self) -> tuple[int, int]:
            return (0, 7)

    @contextlib.contextmanager
    def capture(*arguments: object, **settings: object) -> Iterator[None]:
        signature.bind(*arguments, **settings)
        assert settings["stream"] is device._stream
        events.append(("capture", settings["pool"]))
        yield
        events.append("end")

    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: events.append("wait"))
    device = object.__new__(CudaDevice)
    device.torch_device, device._stream, device._pool = torch.device("cuda", 0), object(), None
    for _ in range(2):
        device.capture(lambda: events.append("step"))
    first = ["step", "wait", ("capture", None), "step", "end"]
    assert events == [*first, "step", "wait", ("capture", (0, 7)), "step", "end"]
