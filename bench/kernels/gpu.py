"""`python -m bench.kernels --device cuda`: every kernel against the rates of memory and of matrix products in the same run."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass

import torch

from bench.gpu.progress import Progress, exit_if_device_is_lost, run_item
from bench.kernels.case import FASTSERVE, Case, gpu_modules
from bench.lib.gpu_timing import interleave_on_gpu, time_in_graph
from bench.lib.timing import Samples
from fastserve import _C
from fastserve.ops.stream import stream_of

_ROOF_BYTES = 4_000_000_000
_CTAS_PER_SM = 4
_MATMUL_SIZE = 8192
# Below, a call is so short that the launch counts; it is timed in a graph as well.
_SHORT_BYTES = 8_000_000


@dataclass(frozen=True, slots=True)
class Roofs:
    """What the GPU gives.

    Attributes:
        read, copy: bytes per second of memory, read alone, and read plus written by a copy.
        matmul: operations per second of a large bf16 matrix product of random numbers.
        launch_s: time between two events around the smallest kernel.
    """

    read: float
    copy: float
    matmul: float
    launch_s: float


def measure_roofs(*, rounds: int) -> Roofs:
    """Read 4 GB with our kernel, copy half of that and multiply square matrices with torch's."""
    memory = torch.randn(_ROOF_BYTES // 4, device="cuda")
    first, second = memory.chunk(2)
    multiprocessors = torch.cuda.get_device_properties(memory.device).multi_processor_count
    sums = torch.empty(_CTAS_PER_SM * multiprocessors, device="cuda")
    a, b, product = torch.randn(3, _MATMUL_SIZE, _MATMUL_SIZE, device="cuda", dtype=torch.bfloat16)
    contenders = {
        "read": lambda: _C.kernels.read_bandwidth(memory, sums, stream=stream_of(memory)),
        "copy": lambda: first.copy_(second),
        "matmul": lambda: torch.matmul(a, b, out=product),
        "launch": sums[:1].zero_,
    }
    samples = interleave_on_gpu(contenders, rounds=rounds)
    return Roofs(
        read=_ROOF_BYTES / samples["read"].median_s,
        copy=_ROOF_BYTES / samples["copy"].median_s,
        matmul=2 * _MATMUL_SIZE**3 / samples["matmul"].median_s,
        launch_s=samples["launch"].median_s,
    )


def run_gpu_cases(
    *, quick: bool, only: str | None, rounds: int, progress: Progress, skip: str | None = None
) -> list[dict[str, object]]:
    """Time and print every case that `progress` has not yet; return the rows of the JSON file.

    A case that fails costs no other, and neither does a contender of it but ours.
    """
    roofs = measure_roofs(rounds=rounds)
    print(f"{torch.cuda.get_device_name()} torch={torch.__version__}; caches cold, random data, medians of {rounds}")
    print(
        f"roofs: read {roofs.read / 1e9:.0f} GB/s, copy {roofs.copy / 1e9:.0f} GB/s (read + written), "
        f"bf16 matrix product {roofs.matmul / 1e12:.0f} TFLOP/s, launch {roofs.launch_s * 1e6:.1f} us"
    )
    if progress.begin("roofs"):
        progress.end("roofs", **asdict(roofs))
    rows = []
    with torch.device("cuda"):
        for module in gpu_modules(only=only, skip=skip):
            cases = module.gpu_cases(quick=quick)
            while (case := _next(cases, module.__name__, progress)) is not None:
                row = run_item(progress, f"{case.kernel} {case.shape}", lambda case=case: _time(case, roofs, rounds))
                rows += [] if row is None else [row]
                del case  # its memory, before the next is made
    progress.done()
    return rows


def _next(cases: Iterator[Case], module: str, progress: Progress) -> Case | None:
    """The next case of a module; None at its end, or where one cannot be made, which is noted."""
    try:
        return next(cases, None)
    except Exception as error:
        print(f"{module}: {type(error).__name__}: {error}", flush=True)
        name = f"cases of {module}"
        if progress.begin(name):
            progress.end(name, "failed", error=f"{type(error).__name__}: {error}"[:2000])
        exit_if_device_is_lost()
        return None


def _time(case: Case, roofs: Roofs, rounds: int) -> dict[str, object]:
    contenders, errors = _that_run(case.contenders)
    samples = interleave_on_gpu(contenders, rounds=rounds)
    in_graph = None
    if 0 < case.bytes_moved < _SHORT_BYTES:
        try:
            in_graph = time_in_graph(case.contenders[FASTSERVE], rounds=rounds)
        except Exception as error:
            errors["graph"] = f"{type(error).__name__}: {error}"[:500]
            exit_if_device_is_lost()
    print(_format_row(case, samples, roofs, in_graph), flush=True)
    for name, error in errors.items():
        print(f"    {name}: {error.splitlines()[0]}", flush=True)
    return _result_of(case, samples, roofs, in_graph) | {"errors": errors}


def _that_run(contenders: Mapping[str, Callable[[], object]]) -> tuple[dict[str, Callable[[], object]], dict[str, str]]:
    """Contenders that can be timed, and why the others cannot. Ours comes first, and its errors are raised."""
    usable, errors = {}, {}
    for name, call in contenders.items():
        try:
            call()
            torch.cuda.synchronize()
            usable[name] = call
        except Exception as error:
            if name == FASTSERVE:
                raise
            errors[name] = f"{type(error).__name__}: {error}"[:500]
            exit_if_device_is_lost()
    return usable, errors


def _format_row(case: Case, samples: dict[str, Samples], roofs: Roofs, in_graph: Samples | None) -> str:
    ours = samples[FASTSERVE]
    columns = [f"{case.kernel:<15}{case.shape:<34}{ours.median_s * 1e6:10.2f} us +-{ours.spread:4.0%}"]
    if in_graph is not None:
        columns.append(f"in a graph {in_graph.median_s * 1e6:.2f} us")
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


def _result_of(case: Case, samples: dict[str, Samples], roofs: Roofs, in_graph: Samples | None) -> dict[str, object]:
    return {
        "kernel": case.kernel,
        "shape": case.shape,
        "bytes_moved": case.bytes_moved,
        "flops": case.flops,
        "read_roof_bytes_per_s": roofs.read,
        "copy_roof_bytes_per_s": roofs.copy,
        "matmul_roof_flops_per_s": roofs.matmul,
        "launch_s": roofs.launch_s,
        "in_graph_s": None if in_graph is None else in_graph.median_s,
        "median_s": {name: sample.median_s for name, sample in samples.items()},
        "samples_s": {name: sample.seconds for name, sample in samples.items()},
    }
