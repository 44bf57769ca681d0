"""Torch as it looks on a machine with a GPU, over torch for CPUs; for kernels that run in tests/gpu_simulator/ptx.

"GPU memory" is ordinary memory, each tensor in pages of its own with one behind them that faults, and torch computes on
the CPU, at once. What a program sees: tensors that say they are on `cuda`, keep the device in their results and hand it on
by DLPack; moves between the devices that copy; graphs; the parts of `torch.cuda` that our code and its tests use. There is
one stream, the legacy default one.
"""

import contextlib
import ctypes
import mmap
import threading
from collections.abc import Callable, Iterator
from typing import ClassVar

import torch
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)
DLPACK_CUDA = 2
MEMORY_BYTES = 1 << 30


class _DlTensor(ctypes.Structure):
    """The beginning of DLTensor (dlpack.h)."""

    _fields_: ClassVar = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


_FillView = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(_DlTensor))


class _ExchangeApi(ctypes.Structure):
    """DLPackExchangeAPI of DLPack 1.2, see csrc/base/dlpack_abi.h."""

    _fields_: ClassVar = [
        ("version", ctypes.c_uint32 * 2),
        ("previous", ctypes.c_void_p),
        ("managed_tensor_allocator", ctypes.c_void_p),
        ("managed_tensor_from_py_object", ctypes.c_void_p),
        ("managed_tensor_to_py_object", ctypes.c_void_p),
        ("tensor_from_py_object", _FillView),
        ("current_work_stream", ctypes.c_void_p),
    ]


_CAPSULE = b"dlpack_exchange_api"
_capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_torch_api = _ExchangeApi.from_address(_capsule_pointer(torch.Tensor.__dlpack_c_exchange_api__, _CAPSULE))


@_FillView
def _view_on_gpu(tensor, view):
    status = _torch_api.tensor_from_py_object(tensor, view)
    view[0].device_type = DLPACK_CUDA
    return status


_api = _ExchangeApi.from_buffer_copy(_torch_api)
_api.previous = None
_api.tensor_from_py_object = _view_on_gpu


class GpuTensor(torch.Tensor):
    """A tensor in ordinary memory that says it is on the GPU."""

    __dlpack_c_exchange_api__ = _new_capsule(ctypes.addressof(_api), _CAPSULE, None)

    @property
    def device(self) -> torch.device:
        return GPU

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def __dlpack_device__(self) -> tuple[int, int]:
        return DLPACK_CUDA, 0

    def numpy(self, **_):
        raise TypeError("can't convert a tensor on the GPU to numpy: copy it with .cpu() first")

    def __array__(self, *_, **__):
        self.numpy()


def _as(kind: type[torch.Tensor], result):
    """Results of a torch function as tensors of one kind."""
    if isinstance(result, torch.Tensor):
        with torch._C.DisableTorchFunctionSubclass():
            return result if type(result) is kind else result.as_subclass(kind)
    if isinstance(result, tuple | list):
        return type(result)(_as(kind, part) for part in result)
    return result


_mprotect = ctypes.CDLL(None).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
ALIGNMENT = 16


def _fenced(tensor: torch.Tensor) -> torch.Tensor:
    """Copy of a tensor that ends, but for alignment, at a page that no code may touch: a read past the end faults."""
    num_bytes = tensor.numel() * tensor.element_size()
    if num_bytes == 0 or not tensor.is_contiguous():
        return tensor
    pages = -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
    region = mmap.mmap(-1, pages + mmap.PAGESIZE)
    begin = ctypes.addressof(ctypes.c_char.from_buffer(region))
    assert _mprotect(begin + pages, mmap.PAGESIZE, 0) == 0
    offset = pages - -(-num_bytes // ALIGNMENT) * ALIGNMENT
    moved = torch.frombuffer(region, dtype=tensor.dtype, count=tensor.numel(), offset=offset).view(tensor.shape)
    return moved.copy_(tensor)


def _tensors(values) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _device_of(value) -> torch.device | None:
    """The device that an argument names; an argument of `to` may be a tensor to resemble."""
    if isinstance(value, torch.Tensor):
        return value.device
    return torch.device(value) if isinstance(value, torch.device | str) else None


class SimulatedCuda(TorchFunctionMode):
    """While it is entered, `cuda` is a device in this thread."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        result = self._fence(self._call(func, args, dict(kwargs)), args, kwargs)
        if Graph.captured is not None:
            Graph.captured.add(func, args, kwargs, result)
        return result

    def _fence(self, result, args, kwargs):
        if type(result) is not GpuTensor:
            return result
        with torch._C.DisableTorchFunctionSubclass():
            if _address(result) in {_address(tensor) for tensor in _tensors((args, tuple(kwargs.values())))}:
                return result  # a view, or done in place
            return _fenced(result).as_subclass(GpuTensor)

    def _call(self, func, args, kwargs):
        if func is torch.Tensor.cuda:
            return self._move(args[0], GPU)
        if func is torch.Tensor.cpu:
            return self._move(args[0], torch.device("cpu"))
        if func is torch.Tensor.to:
            return self._to(*args, **kwargs)
        if func is torch.Tensor.pin_memory:
            return args[0].clone()
        if func is torch.mm and "out_dtype" in kwargs:  # torch has it for GPUs only
            return kwargs["out"].copy_(args[0].float() @ args[1].float())
        kwargs.pop("pin_memory", None)
        device = _device_of(kwargs.get("device"))
        if device is None:
            return func(*args, **kwargs)
        if device.type == "cuda":
            kwargs["device"] = "cpu"
            result = func(*args, **kwargs)
            return _as(GpuTensor, result.clone() if func is torch.as_tensor else result)
        result = func(*args, **kwargs)
        return _as(torch.Tensor, result) if device.type == "cpu" else result

    def _to(self, tensor, *args, device=None, dtype=None, **options):
        for value in args:
            if isinstance(value, torch.dtype):
                dtype = value
            elif _device_of(value) is not None:
                device = value
                dtype = value.dtype if isinstance(value, torch.Tensor) else dtype
        device = tensor.device if device is None else _device_of(device)
        if device.type not in ("cpu", "cuda"):
            return tensor.to(device, dtype)
        converted = tensor if dtype is None else tensor.to(dtype)
        if converted is tensor and options.get("copy"):
            converted = tensor.clone()
        return self._move(converted, device)

    def _move(self, tensor, device):
        if tensor.device.type == device.type:
            return tensor
        return _as(GpuTensor if device.type == "cuda" else torch.Tensor, tensor.clone())


class Stream:
    """The one stream; more are the same."""

    cuda_stream = 0

    def __init__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True


class Event:
    """Of the one stream, where everything is done when it is queued."""

    def record(self, stream: Stream | None = None) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Generator(torch.Generator):
    """Draws on the CPU whatever device it is asked for: torch makes one of a GPU in a build for CUDA only."""

    def __new__(cls, device: torch.device | str = "cpu") -> "Generator":
        generator = super().__new__(cls, device="cpu")
        generator._device = torch.device(device)
        return generator

    @property
    def device(self) -> torch.device:
        return self._device


class Graph:
    """What a step launched, ours and torch's, in its order; torch's work is done while it is captured as well."""

    runtime: ctypes.CDLL
    captured: "Graph | None" = None  # now, in the only thread that captures

    def __init__(self) -> None:
        self._parts: list[int | Callable[[], None]] = []  # launches of ours together, and calls of torch

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        self._parts.append(self.runtime.gpu_simulator_capture())
        Graph.captured = self
        try:
            yield
        finally:
            Graph.captured = None
            self.runtime.gpu_simulator_end_capture()

    def add(self, func: Callable, args: tuple, kwargs: dict, result: object) -> None:
        """A call of torch that is being captured, and what it returned: later ones leave their result in its place."""
        results = list(_tensors((result,)))
        given = {_address(tensor) for tensor in _tensors((args, tuple(kwargs.values())))}
        name = func.__name__
        in_place = result is None or "out" in kwargs or (name.endswith("_") and not name.startswith("__"))
        makes_new = bool(results) and not any(_address(tensor) in given for tensor in results)
        if not in_place and not makes_new:
            return  # a question, or a view

        def again() -> None:
            for old, new in zip(results, _tensors((func(*args, **kwargs),)), strict=True):
                if _address(old) != _address(new):
                    old.copy_(new)

        self.runtime.gpu_simulator_end_capture()
        self._parts += [again, self.runtime.gpu_simulator_capture()]

    def pool(self) -> tuple[int, int]:
        return 0, 0

    def replay(self) -> None:
        for part in self._parts:
            if callable(part):
                part()
            elif (status := self.runtime.gpu_simulator_replay(part)) != 0:
                raise torch.AcceleratorError(self.runtime.gpu_simulator_error_text(status).decode())

    def __del__(self) -> None:
        for part in self._parts:
            if not callable(part):
                self.runtime.gpu_simulator_forget(part)


def _in_every_thread(run: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    def run_with_gpu(thread: threading.Thread) -> None:
        with SimulatedCuda():
            run(thread)

    return run_with_gpu


def install(runtime: ctypes.CDLL, capability: tuple[int, int]) -> None:
    """Make torch show one GPU, in this thread and those started later; its kernels are in `runtime`, our extension module."""
    runtime.gpu_simulator_capture.restype = ctypes.c_void_p
    runtime.gpu_simulator_replay.argtypes = runtime.gpu_simulator_forget.argtypes = [ctypes.c_void_p]
    runtime.gpu_simulator_error_text.restype = ctypes.c_char_p
    Graph.runtime = runtime
    functions: dict[str, Callable | type] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: capability,
        "get_device_name": lambda device=None: "Simulated GPU",
        "current_stream": Stream,
        "synchronize": lambda device=None: None,
        "Stream": Stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": Graph,
        "graph": lambda graph, **_: graph.capture(),
        "Event": Event,
        "set_device": lambda device: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device: None,
        "mem_get_info": lambda device: (MEMORY_BYTES // 2, MEMORY_BYTES),
        "memory_reserved": lambda device: MEMORY_BYTES // 4,
        "max_memory_allocated": lambda device: MEMORY_BYTES // 4,
    }
    for name, function in functions.items():
        setattr(torch.cuda, name, function)
    torch.Generator = Generator
    torch.version.cuda = "13.0"
    threading.Thread.run = _in_every_thread(threading.Thread.run)
    SimulatedCuda().__enter__()
