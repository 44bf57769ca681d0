"""`python -m bench.kernels --device cuda`: every kernel against the rates of memory and of matrix products in the same run."""

from dataclasses import dataclass

import torch

from bench.kernels.case import FASTSERVE, Case, all_gpu_cases
from bench.lib.gpu_timing import interleave_on_gpu
from bench.lib.timing import Samples
from fastserve import _C
from fastserve.ops.stream import stream_of

_ROOF_BYTES = 4_000_000_000
_CTAS_PER_SM = 4
_MATMUL_SIZE = 8192


@dataclass(frozen=True, slots=True)
class Roofs:
    """Bytes per second that memory gives: read alone, and read plus written by a copy; operations per second of a large
    bf16 matrix product of random numbers."""

    read: float
    copy: float
    matmul: float


def measure_roofs(*, rounds: int) -> Roofs:
    """Read 4 GB with our kernel, copy half of that and multiply square matrices with torch's."""
    memory = torch.randn(_ROOF_BYTES // 4, device="cuda")
    first, second = memory.chunk(2)
    multiprocessors = torch.cuda.get_device_properties(memory.device).multi_processor_count
    sums = torch.empty(_CTAS_PER_SM * multiprocessors, device="cuda")
    a, b, product = torch.randn(3, _MATMUL_SIZE, _MATMUL_SIZE, device="cuda", dtype=torch.bfloat16)
    contenders = {
        "read": lambda: _C.kernels.memory_roof(memory, sums, stream=stream_of(memory)),
        "copy": lambda: first.copy_(second),
        "matmul": lambda: torch.matmul(a, b, out=product),
    }
    samples = interleave_on_gpu(contenders, rounds=rounds)
    return Roofs(
        read=_ROOF_BYTES / samples["read"].median_s,
        copy=_ROOF_BYTES / samples["copy"].median_s,
        matmul=2 * _MATMUL_SIZE**3 / samples["matmul"].median_s,
    )


def run_gpu_cases(*, quick: bool, only: str | None) -> list[dict[str, object]]:
    """Time and print every case; return the rows of the JSON file."""
    rounds = 10 if quick else 50
    roofs = measure_roofs(rounds=rounds)
    print(f"{torch.cuda.get_device_name()} torch={torch.__version__}; caches cold, random data, medians of {rounds}")
    print(
        f"roofs: read {roofs.read / 1e9:.0f} GB/s, copy {roofs.copy / 1e9:.0f} GB/s (read + written), "
        f"bf16 matrix product {roofs.matmul / 1e12:.0f} TFLOP/s"
    )
    results = []
    with torch.device("cuda"):
        for case in all_gpu_cases(quick=quick, only=only):
            samples = interleave_on_gpu(case.contenders, rounds=rounds)
            print(_format_row(case, samples, roofs), flush=True)
            results.append(_result_of(case, samples, roofs))
    return results


def _format_row(case: Case, samples: dict[str, Samples], roofs: Roofs) -> str:
    ours = samples[FASTSERVE]
    columns = [f"{case.kernel:<15}{case.shape:<34}{ours.median_s * 1e6:10.2f} us +-{ours.spread:4.0%}"]
    if case.bytes_moved:
        rate = case.bytes_moved / ours.median_s
        columns.append(f"{rate / 1e9:7.0f} GB/s  {rate / roofs.copy:4.0%} of copy  {rate / roofs.read:4.0%} of read")
    if case.flops:
        rate = case.flops / ours.median_s
        columns.append(f"{rate / 1e12:6.0f} TFLOP/s  {rate / roofs.matmul:4.0%} of matmul")
    columns += [
        f"{name} {other.median_s / ours.median_s:5.2f}x" for name, other in samples.items() if name != FASTSERVE
    ]
    return "  ".join(columns)


def _result_of(case: Case, samples: dict[str, Samples], roofs: Roofs) -> dict[str, object]:
    return {
        "kernel": case.kernel,
        "shape": case.shape,
        "bytes_moved": case.bytes_moved,
        "flops": case.flops,
        "read_roof_bytes_per_s": roofs.read,
        "copy_roof_bytes_per_s": roofs.copy,
        "matmul_roof_flops_per_s": roofs.matmul,
        "median_s": {name: sample.median_s for name, sample in samples.items()},
        "samples_s": {name: sample.seconds for name, sample in samples.items()},
    }
