"""What the C++ core was built for and what this machine has."""

from dataclasses import dataclass

from fastserve import _C


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaDevice:
    """A device that the driver reports."""

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreDescription:
    """Build and machine, as the core sees them.

    Attributes:
        cpu_isa: instruction set of the CPU kernels in use: scalar, avx2, avx512 or amx.
        num_threads: compute threads of this process.
        cuda_build_version, cuda_architectures: of the build; empty without CUDA.
        cuda_devices: empty without a driver.
    """

    cpu_isa: str
    num_threads: int
    cuda_compiled: bool
    cuda_build_version: str
    cuda_architectures: str
    cuda_devices: tuple[CudaDevice, ...]


def describe_core() -> CoreDescription:
    """Return the facts that the core reports."""
    return CoreDescription(
        cpu_isa=_C.cpu_isa(),
        num_threads=_C.num_threads(),
        cuda_compiled=_C.cuda_compiled(),
        cuda_build_version=_C.cuda_build_version(),
        cuda_architectures=_C.cuda_architectures(),
        cuda_devices=tuple(CudaDevice(**row) for row in _C.cuda_devices()),
    )
