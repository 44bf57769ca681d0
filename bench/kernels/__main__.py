"""Time the kernels beside torch in the same run: `python -m bench.kernels [--quick] [--only linear] [--json FILE]`.

With `--device cuda` on a GPU, see bench/kernels/gpu.py.
"""

import argparse
import os
from pathlib import Path

import torch

from bench.gpu.progress import Progress
from bench.kernels.case import FASTSERVE, Case, all_cases
from bench.kernels.gpu import run_gpu_cases
from bench.lib.report import write_json
from bench.lib.timing import Samples, interleave
from fastserve import _C

ROOF = "roof"
ROOF_BYTES = 400_000_000  # far beyond every cache


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw sample to FILE")
    parser.add_argument("--quick", action="store_true", help="fewer shapes and rounds")
    parser.add_argument("--only", metavar="NAME", help="one kernel, by the name of its module in bench/kernels")
    parser.add_argument("--skip", metavar="NAME", help="on a GPU: all but one kernel")
    parser.add_argument("--threads", type=int, default=_C.num_threads(), help="compute threads, of torch too")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the kernels run")
    parser.add_argument("--rounds", type=int, help="samples of every kernel on a GPU; default 50, 10 with --quick")
    parser.add_argument("--progress", type=Path, metavar="FILE", help="see bench/gpu/progress.py")
    arguments = parser.parse_args()
    progress = Progress(arguments.progress or Path(os.devnull))
    run = _run_on_gpu if arguments.device == "cuda" else _run_on_cpu
    results = run(arguments, progress)
    if arguments.json is not None:
        config = {
            "command": "bench.kernels",
            "quick": arguments.quick,
            "device": arguments.device,
            "threads": arguments.threads,
            "cpu_isa": _C.cpu_isa(),
            "torch": torch.__version__,
        }
        write_json(arguments.json, config=config, results=results)


def _run_on_gpu(arguments: argparse.Namespace, progress: Progress) -> list[dict[str, object]]:
    if not torch.cuda.is_available():
        raise SystemExit("there is no CUDA device")
    rounds = arguments.rounds or (10 if arguments.quick else 50)
    return run_gpu_cases(
        quick=arguments.quick, only=arguments.only, rounds=rounds, progress=progress, skip=arguments.skip
    )


def _run_on_cpu(arguments: argparse.Namespace, progress: Progress) -> list[dict[str, object]]:
    _C.set_num_threads(arguments.threads)
    torch.set_num_threads(arguments.threads)
    rounds, sample_s = (5, 0.004) if arguments.quick else (15, 0.01)

    memory, roof_sum = torch.ones(ROOF_BYTES // 4), torch.empty(1)

    print(f"cpu_isa={_C.cpu_isa()} threads={arguments.threads} torch={torch.__version__}; time of fastserve, then how")
    print("many times faster it is than each of the others (roof: the time to read the weight, over ours)")
    results = []
    for case in all_cases(quick=arguments.quick, only=arguments.only):
        contenders = dict(case.contenders)
        if case.bytes_moved:
            contenders[ROOF] = lambda: _C.kernels.read_bandwidth(memory, roof_sum)
        samples = interleave(contenders, rounds=rounds, sample_s=sample_s)
        if case.bytes_moved:
            samples[ROOF] = scaled(samples[ROOF], case.bytes_moved / ROOF_BYTES)
        print(format_row(case, samples), flush=True)
        results.append(result_of(case, samples))
        progress.end(f"{case.kernel} {case.shape}", **results[-1])
    progress.done()
    return results


def scaled(samples: Samples, factor: float) -> Samples:
    """The time that `factor` of the work would take."""
    return Samples(tuple(factor * seconds for seconds in samples.seconds))


def format_row(case: Case, samples: dict[str, Samples]) -> str:
    """One line: kernel, shape, our median and spread, rates, and the time of each other contender over ours."""
    ours = samples[FASTSERVE]
    columns = [f"{case.kernel:<15}{case.shape:<34}{ours.median_s * 1e6:10.1f} us +-{ours.spread:4.0%}"]
    columns.append(f"{case.bytes_moved / ours.median_s / 1e9:7.1f} GB/s" if case.bytes_moved else " " * 12)
    columns.append(f"{case.flops / ours.median_s / 1e9:7.1f} GFLOP/s" if case.flops else " " * 15)
    for name, other in samples.items():
        if name != FASTSERVE:
            ratio = other.median_s / ours.median_s
            columns.append(f"{name} {ratio:4.0%}" if name == ROOF else f"{name} {ratio:5.2f}x")
    return "  ".join(columns)


def result_of(case: Case, samples: dict[str, Samples]) -> dict[str, object]:
    """The row for the JSON file: raw samples and medians in seconds, ratios of medians to ours."""
    ours_s = samples[FASTSERVE].median_s
    return {
        "kernel": case.kernel,
        "shape": case.shape,
        "bytes_moved": case.bytes_moved,
        "flops": case.flops,
        "median_s": {name: sample.median_s for name, sample in samples.items()},
        "spread": {name: sample.spread for name, sample in samples.items()},
        "speedup": {name: sample.median_s / ours_s for name, sample in samples.items() if name != FASTSERVE},
        "samples_s": {name: sample.seconds for name, sample in samples.items()},
    }


if __name__ == "__main__":
    main()
