"""
The C++ core of FastServe: scheduler, KV manager, offload engine, kernels.
"""
from __future__ import annotations
import typing
from . import kv
from . import sched
from . import offload
from . import kernels
from . import collective
__all__: list[str] = ['DeviceError', 'FastServeError', 'InternalError', 'InvalidArgumentError', 'collective', 'cpu_isa', 'cuda_architectures', 'cuda_build_version', 'cuda_compiled', 'cuda_devices', 'cuda_problem', 'kernels', 'kv', 'num_threads', 'offload', 'sched', 'set_cpu_isa', 'set_num_threads']
class FastServeError(Exception):
    pass
class InvalidArgumentError(FastServeError, ValueError):
    pass
class DeviceError(FastServeError):
    pass
class InternalError(FastServeError):
    pass
def cpu_isa() -> str:
    """
    Instruction set of the CPU kernels in use: scalar, avx2, avx512 or amx.
    """
def cuda_architectures() -> str:
    """
    Architectures the CUDA code is compiled for, separated by spaces.
    """
def cuda_build_version() -> str:
    """
    Version of the CUDA runtime linked in, for example 13.0; empty without CUDA.
    """
def cuda_compiled() -> bool:
    """
    Whether this build carries CUDA code.
    """
def cuda_devices() -> list[typing.Any]:
    """
    CUDA devices seen by the driver: a list of {name, compute_capability, memory_bytes}; empty without a driver.
    """
def cuda_problem() -> str:
    """
    Why no CUDA device can be used, with the remedy; empty when one can.
    """
def num_threads() -> int:
    """
    Number of compute threads of this process.
    """
def set_cpu_isa(name: str) -> None:
    """
    Use another instruction set from now on (tests); an error when the machine cannot run it.
    """
def set_num_threads(num_threads: typing.SupportsInt | typing.SupportsIndex) -> None:
    """
    Replace the compute threads of this process; not beside a running kernel.
    """
__version__: str = '0.1.0'
