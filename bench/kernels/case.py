"""What a benchmark module offers: `cases(quick)` and `gpu_cases(quick)` yield the cases of its kernel on either device.

Every module of this folder is asked."""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
    return _cases_of("cases", quick=quick, only=only)


def all_gpu_cases(*, quick: bool, only: str | None) -> Iterator[Case]:
    """The same with `gpu_cases`, which make their tensors on torch's default device."""
    return _cases_of("gpu_cases", quick=quick, only=only)


def _cases_of(function: str, *, quick: bool, only: str | None) -> Iterator[Case]:
    for module_info in pkgutil.iter_modules(bench.kernels.__path__):
        if module_info.name == "__main__" or (only is not None and module_info.name != only):
            continue
        module = importlib.import_module(f"bench.kernels.{module_info.name}")
        if hasattr(module, function):
            yield from getattr(module, function)(quick=quick)
