"""The table at the end of `bench/gpu_check.sh`: `python -m bench.gpu.report FOLDER` reads the JSON of its stages."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from bench.gpu.serving import line_of
from bench.kernels.case import FASTSERVE
from bench.lib.report import describe_host, git_sha

SHAPE_OF_STAGE = {"llama": "llama-3-8b", "opt": "opt-13b"}


def read_stages(folder: Path) -> list[dict[str, object]]:
    """What stages.tsv says: name, result and seconds of every stage that ran."""
    rows = [line.split("\t") for line in (folder / "stages.tsv").read_text().splitlines()]
    return [{"stage": name, "result": result, "seconds": float(seconds)} for name, result, seconds in rows]


def offload_lines(results: list[dict]) -> Iterator[str]:
    """A line per block size and direction, and one for the slowdown of the compute."""
    for row in results:
        if "slowdown" in row:
            yield f"copies slow a reading kernel by {row['slowdown']:+.1%}"
        else:
            ratio = row["batched_bytes_per_s"] / row["roof_bytes_per_s"]
            yield (
                f"KV {row['block_bytes'] >> 10:>6} KiB {row['name']:<10} {row['batched_bytes_per_s'] / 1e9:6.1f} GB/s"
                f" = {ratio:4.2f} x large copy (one by one {row['single_bytes_per_s'] / 1e9:.1f})"
            )


def kernel_lines(results: list[dict]) -> Iterator[str]:
    """A line per kernel and shape: time, rate, share of the roof of the same run, and how much longer the others take."""
    yield f"{'kernel':<15}{'shape':<34}{'us':>10} {'rate':>13} {'of roof':>8}  against"
    for row in results:
        seconds = row["median_s"]
        rate, share = _rate_and_share(row)
        others = "  ".join(
            f"{name} {other_s / seconds[FASTSERVE]:.2f}x"
            for name, other_s in seconds.items()
            if name not in (FASTSERVE, "roof")
        )
        yield f"{row['kernel']:<15}{row['shape']:<34}{seconds[FASTSERVE] * 1e6:10.1f} {rate:>13} {share:>8}  {others}"


def _rate_and_share(row: dict) -> tuple[str, str]:
    """TFLOP/s of large matrix products, or GB/s of reading; on a CPU, where the roof is timed as a contender, of that."""
    seconds = row["median_s"][FASTSERVE]
    if row.get("matmul_roof_flops_per_s") and row["flops"]:
        rate = row["flops"] / seconds
        return f"{rate / 1e12:.0f} TFLOP/s", f"{rate / row['matmul_roof_flops_per_s']:.0%}"
    if not row["bytes_moved"]:
        return "", ""
    rate = row["bytes_moved"] / seconds
    roof = row.get("read_roof_bytes_per_s") or row["bytes_moved"] / row["median_s"]["roof"]
    return f"{rate / 1e9:.0f} GB/s", f"{rate / roof:.0%}"


def stage_lines(folder: Path, stage: str) -> Iterator[str]:
    """What a stage found, from its JSON; nothing when there is none."""
    path = folder / f"{stage}.json"
    if not path.is_file():
        return
    document = json.loads(path.read_text())
    if stage == "offload":
        yield from offload_lines(document["results"])
    elif stage == "kernels":
        yield from kernel_lines(document["results"])
    elif stage in SHAPE_OF_STAGE:
        for row in document["results"]:
            yield line_of(document["config"]["shape"], row)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="results of bench/gpu_check.sh")
    folder = parser.parse_args().folder
    stages = read_stages(folder)
    print(f"\n== {folder}")
    for stage in stages:
        print(f"{stage['stage']:<8} {stage['result']:<12} {stage['seconds']:6.1f} s")
        for line in stage_lines(folder, str(stage["stage"])):
            print(f"         {line}")
    summary = {"git_sha": git_sha(), "host": describe_host(), "stages": stages}
    (folder / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
