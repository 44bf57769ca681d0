"""Where a worker runs: on the CPU, or on one GPU of the NVIDIA driver."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from fastserve import _C
from fastserve.errors import DeviceError, InvalidArgumentError
from fastserve.log import get_logger
from fastserve.worker.memory import DeviceMemory

logger = get_logger(__name__)

MIN_CAPABILITY = (8, 0)
MEMORY_ALLOCATION_ERROR = 2  # cudaErrorMemoryAllocation


class Event(Protocol):
    """A point in the work of a device."""

    def record(self) -> None:
        """Record the event after the work queued so far."""

    def wait(self) -> None:
        """Block the host until that work is done; return at once if nothing was recorded."""


class Graph(Protocol):
    """A step that was captured and can be run again with what its inputs hold then."""

    def replay(self) -> None:
        """Queue the step."""


class Device(Protocol):
    """The device that runs the steps of a worker; calls queue work on its one compute stream.

    Attributes:
        torch_device: where tensors of the model lie.
        label: for people.
        stream: the compute stream, as an integer; 0 on the CPU.
        is_host: its memory is the host's, and a call has done its work when it returns; else both work side by side.
    """

    torch_device: torch.device
    label: str
    stream: int
    is_host: bool

    def scope(self) -> contextlib.AbstractContextManager[object]:
        """Within it, torch and the ops queue their work on the compute stream; for any thread."""

    def synchronize(self) -> None:
        """Wait until the device has done everything."""

    def event(self) -> Event:
        """Make an event."""

    def host_buffer(self, num_bytes: int) -> torch.Tensor:
        """uint8 [num_bytes] on the CPU that the device can read and write by itself."""

    def is_fault(self, error: BaseException) -> bool:
        """Whether the device is lost for this process: nothing that it holds can be trusted any more."""


class Gpu(Device, Protocol):
    """A device with memory of its own, which works beside the host."""

    def capture(self, step: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        """Capture a step, after it has run once for real; what it returned is written again by every replay."""

    def begin_peak(self) -> None:
        """Give back memory that is not in use and count the peak from now on."""

    def memory(self) -> DeviceMemory:
        """State of the memory; waits for the device."""


class _DoneEvent:
    """The event of a device whose calls return after the work is done."""

    def record(self) -> None:
        pass

    def wait(self) -> None:
        pass


class CpuDevice:
    """The CPU, with the threads of the core."""

    def __init__(self) -> None:
        # All heavy work runs in the core's own threads; a second pool of torch's would fight them for the cores.
        torch.set_num_threads(1)
        self.torch_device = torch.device("cpu")
        self.label = "cpu"
        self.stream = 0
        self.is_host = True

    def scope(self) -> contextlib.AbstractContextManager[object]:
        """See Device."""
        return contextlib.nullcontext()

    def synchronize(self) -> None:
        """See Device."""

    def event(self) -> Event:
        """See Device."""
        return _DoneEvent()

    def host_buffer(self, num_bytes: int) -> torch.Tensor:
        """See Device."""
        return torch.zeros(num_bytes, dtype=torch.uint8)

    def is_fault(self, _error: BaseException) -> bool:
        """See Device. Errors of the CPU's kernels leave everything as it was."""
        return False


class _CudaEvent:
    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def record(self) -> None:
        self._event.record(self._stream)

    def wait(self) -> None:
        self._event.synchronize()


class CudaDevice:
    """The first GPU that the process may see, with one compute stream of its own.

    Raises:
        DeviceError: there is no usable GPU; the message says what is missing and what to do.
    """

    def __init__(self) -> None:
        if problem := cuda_problem():
            raise DeviceError(f"device cuda cannot be used: {problem}")
        self.torch_device = torch.device("cuda", 0)
        torch.cuda.set_device(self.torch_device)
        self.is_host = False
        self.label = f"cuda ({torch.cuda.get_device_name(self.torch_device)})"
        self._stream = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]
        self.stream: int = self._stream.cuda_stream
        self._pool: Any = None  # of torch's graphs

    def scope(self) -> contextlib.AbstractContextManager[object]:
        """See Device."""
        return torch.cuda.stream(self._stream)

    def synchronize(self) -> None:
        """See Device."""
        torch.cuda.synchronize(self.torch_device)

    def event(self) -> Event:
        """See Device."""
        return _CudaEvent(self._stream)

    def host_buffer(self, num_bytes: int) -> torch.Tensor:
        """See Device. Only our kernels may touch it: memory that torch has copied waits for events when it is freed, and ends
        the process where the device is lost."""
        return torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=True)

    def capture(self, step: Callable[[], torch.Tensor]) -> tuple[Graph, torch.Tensor]:
        """See Device. All graphs share one memory pool: they never run at once."""
        with self.scope():
            step()  # libraries set themselves up outside the capture
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        # What other threads of the process do on the GPU meanwhile must not spoil the capture.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            output = step()
        self._pool = graph.pool()
        return graph, output

    def begin_peak(self) -> None:
        """See Device."""
        self.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.torch_device)

    def memory(self) -> DeviceMemory:
        """See Device."""
        self.synchronize()
        free, total = torch.cuda.mem_get_info(self.torch_device)
        reserved = torch.cuda.memory_reserved(self.torch_device)
        return DeviceMemory(total, free, reserved, torch.cuda.max_memory_allocated(self.torch_device))

    def is_fault(self, error: BaseException) -> bool:
        """See Device. Being out of memory leaves the device as it was; so does whatever lets later calls succeed."""
        if is_out_of_memory(error):
            return False
        return isinstance(error, torch.AcceleratorError | DeviceError) or self._is_lost()

    def _is_lost(self) -> bool:
        """After a fault that spoils the context every call fails; libraries raise errors of their own for it."""
        try:
            self._stream.query()
        except RuntimeError:
            return True
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory: for torch's allocator, or for CUDA itself, as when it makes a graph."""
    code = getattr(error, "error_code", None)  # of a torch.AcceleratorError
    return isinstance(error, torch.OutOfMemoryError) or code == MEMORY_ALLOCATION_ERROR


@contextlib.contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Turn a lack of memory within the scope into an InvalidArgumentError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InvalidArgumentError(f"{advice} ({error})") from error


def open_device(requested: str) -> CpuDevice | Gpu:
    """The device that the setting "auto", "cpu" or "cuda" means on this machine.

    Raises:
        DeviceError: "cuda" is asked for and cannot be used.
        InvalidArgumentError: the setting is none of the three.
    """
    if requested not in ("auto", "cpu", "cuda"):
        raise InvalidArgumentError(f"device must be auto, cpu or cuda, got {requested}")
    if requested == "auto" and _C.cuda_devices() and (problem := cuda_problem()):
        logger.warning("the model runs on the CPU: %s", problem)
        return CpuDevice()
    if requested == "cpu" or (requested == "auto" and not _C.cuda_devices()):
        return CpuDevice()
    return CudaDevice()


def cuda_problem() -> str:
    """Why the model cannot run on a GPU here, with the remedy; empty when it can."""
    if problem := _C.cuda_problem():
        return problem
    devices = _C.cuda_devices()
    if not devices:
        return "the driver does not describe its GPU; look at nvidia-smi"
    major, minor = devices[0]["compute_capability"]
    if (major, minor) < MIN_CAPABILITY:
        return (
            f"{devices[0]['name']} has compute capability {major}.{minor}, the kernels need"
            f" {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} (Ampere) or newer; use another GPU or --device cpu"
        )
    if torch.version.cuda is None:
        return "this torch is a CPU build; install a CUDA build of torch"
    if not torch.cuda.is_available():
        return f"torch (built for CUDA {torch.version.cuda}) cannot use the GPU; install a torch that fits the driver"
    return ""
