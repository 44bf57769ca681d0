"""What a benchmark module offers: `cases(quick)` and `gpu_cases(quick)` yield the cases of its kernel on either device.

Every module of this folder is asked."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import bench.kernels

FASTSERVE = "fastserve"


@dataclass(frozen=True, slots=True)
class Case:
    """One kernel at one shape, with what it is compared with.

    Attributes:
        kernel: for example "linear".
        shape: for example "T=16 N=1280 K=768 fp32".
        contenders: name to a call without arguments; `FASTSERVE` is ours.
        bytes_moved: bytes that a call must read from memory (not from a cache), compared with the read bandwidth of the
            machine measured beside it; 0 when that says nothing. On a GPU, where caches are cold: bytes read and written.
        flops: floating-point operations of a call, for GFLOP/s; 0 when that says nothing.
    """

    kernel: str
    shape: str
    contenders: dict[str, Callable[[], object]]
    bytes_moved: int = 0
    flops: int = 0


def all_cases(*, quick: bool, only: str | None) -> Iterator[Case]:
    """Yield the cases of every module of `bench.kernels` that has a function `cases`; `only` names one module."""
    for module in _modules(only):
        if hasattr(module, "cases"):
            yield from module.cases(quick=quick)


def gpu_modules(*, only: str | None, skip: str | None = None) -> list[ModuleType]:
    """The modules with `gpu_cases`, whose tensors lie on torch's default device; the longest, attention, comes last."""
    modules = [module for module in _modules(only) if hasattr(module, "gpu_cases")]
    modules = [module for module in modules if module.__name__ != f"bench.kernels.{skip}"]
    return sorted(modules, key=lambda module: module.__name__.endswith("attention"))


def _modules(only: str | None) -> Iterator[ModuleType]:
    for module_info in pkgutil.iter_modules(bench.kernels.__path__):
        if module_info.name == "__main__" or (only is not None and module_info.name != only):
            continue
        yield importlib.import_module(f"bench.kernels.{module_info.name}")
