"""The results of `bench/gpu_check.sh`: `python -m bench.gpu.report FOLDER --stage NAME RESULT SECONDS` after every stage.

The items of a stage lie in FOLDER/NAME.jsonl, a line each as soon as it ends; they move to FOLDER/results.json (every stage so far with
all its items and samples), from which FOLDER/report.txt (the table, with the goals) is made. So a folder has few files at any
time. Those of a run that was cut off are found by the next report. Imports nothing beyond the standard library: it has to say what went wrong where nothing can be imported.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from bench.gpu.goals import GOALS
from bench.gpu.progress import Progress
from bench.gpu.words import (
    kernel_lines,
    narrowing_lines,
    offload_lines,
    profile_lines,
    serving_lines,
    smoke_lines,
    tested_lines,
)
from bench.lib.report import describe_host, git_sha

LINES = {
    "smoke": smoke_lines,
    "offload": offload_lines,
    "batches": serving_lines,
    "opt": serving_lines,
    "ncu": profile_lines,
    "narrowing": narrowing_lines,
}
KERNELS = ("attention", "kernels", "variants")
OPEN_RESULT = "cut off"
MOST_TESTS = 40  # lines of tests that did not pass


def add_stage(folder: Path, stage: str, result: str, seconds: float) -> dict:
    """Move the items of a stage, in place of an earlier run of it, into results.json; returns the whole."""
    path, items = folder / "results.json", folder / f"{stage}.jsonl"
    document = json.loads(path.read_text()) if path.is_file() else {}
    document |= {"git_sha": git_sha(), "host": describe_host()}
    row = {"result": result, "seconds": seconds}
    progress = Progress(items)
    row["items"] = list(progress.ended.values())
    if progress.open is not None:
        row["items"].append({"end": progress.open, "outcome": OPEN_RESULT})
    document["stages"] = {name: old for name, old in document.get("stages", {}).items() if name != stage} | {stage: row}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document) + "\n")
    temporary.replace(path)
    items.unlink(missing_ok=True)
    return document


def stage_lines(stage: str, items: list[dict]) -> Iterator[str]:
    """What a stage found."""
    good = [item for item in items if item["outcome"] == "ok"]
    if stage in KERNELS:
        roofs = next((item for item in good if item["end"] == "roofs"), None)
        if roofs is not None:
            yield (
                f"roofs: read {roofs['read'] / 1e9:.0f} GB/s, copy {roofs['copy'] / 1e9:.0f}, products"
                f" {roofs['matmul'] / 1e12:.0f} TFLOP/s, launch {1e6 * roofs['launch_s']:.1f} us"
            )
        yield from kernel_lines(good)
    elif stage in LINES:
        yield from LINES[stage](items if stage == "smoke" else good)
    elif items:
        lines = list(tested_lines(items))
        yield from lines[:MOST_TESTS]
        if len(lines) > MOST_TESTS:
            yield f"... and {len(lines) - MOST_TESTS} more, in results.json"
    if stage in (*KERNELS, *LINES) and stage != "smoke":
        for item in items:
            if item["outcome"] not in ("ok", "passed", "skipped"):
                yield f"{item['outcome']}: {item['end']}: {str(item.get('error', ''))[:200]}"


def goal_lines(stage: str, items: list[dict]) -> Iterator[str]:
    """Every goal of a stage beside what was measured."""
    rows = {item["end"]: item for item in items if stage == "race" or item["outcome"] == "ok"}
    for goal in GOALS.get(stage, ()):
        yield goal.line(rows)


def table(document: dict) -> Iterator[str]:
    """The whole report; goals last."""
    for stage, row in document["stages"].items():
        yield f"{stage:<9} {row['result']:<12} {row['seconds']:6.1f} s"
        yield from (f"    {line}" for line in stage_lines(stage, row["items"]))
    for stage, row in document["stages"].items():
        if row["items"] and stage in GOALS:
            yield f"goals of {stage}"
            yield from (f"    {line}" for line in goal_lines(stage, row["items"]))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="results of bench/gpu_check.sh")
    parser.add_argument(
        "--stage",
        nargs=3,
        metavar=("NAME", "RESULT", "SECONDS"),
        help="a stage that has ended; default: print the table",
    )
    args = parser.parse_args()
    if args.stage:
        name, result, seconds = args.stage
        document = add_stage(args.folder, name, result, float(seconds))
    else:
        for items in sorted(args.folder.glob("*.jsonl")):
            add_stage(args.folder, items.stem, OPEN_RESULT, 0.0)
        document = json.loads((args.folder / "results.json").read_text())
    text = "\n".join(table(document)) + "\n"
    (args.folder / "report.txt").write_text(text)
    if not args.stage:
        print(text, end="")


if __name__ == "__main__":
    main()
