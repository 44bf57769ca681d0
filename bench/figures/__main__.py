"""`python -m bench.figures NAME|all`: simulate a figure, write it as JSON and PNG, print its table."""

import argparse
import sys
import time
from pathlib import Path

from bench.figures.paper import PaperCurves, read_paper
from bench.figures.plot import draw_figure
from bench.figures.ratios import ratio_table, ratios_as_markdown, worst_of_all
from bench.figures.report import as_json, document
from bench.figures.run import run_figure
from bench.figures.spec import FOLDER, figure_names, read_figure
from bench.figures.table import as_markdown, slo_table
from fastserve.errors import InvalidArgumentError

ROOT = Path(__file__).parents[2]


def main(argv: list[str] | None = None) -> int:
    """Make the figures that are asked for; see --help."""
    args = _parser().parse_args(argv)
    try:
        paper = read_paper(args.paper)
        for name in figure_names() if args.name == "all" else [args.name]:
            make_figure(name, args, paper)
    except InvalidArgumentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def make_figure(name: str, args: argparse.Namespace, paper: PaperCurves) -> None:
    """Simulate, write and print one figure."""
    spec = read_figure(FOLDER / f"{name}.toml")
    started = time.perf_counter()
    results = run_figure(spec, traces=args.traces, quick=args.quick, processes=args.processes, progress=_progress(name))
    rows, ratios = slo_table(spec, results), ratio_table(spec, results)
    folder = args.output or ROOT / ("build/figures" if args.quick else "bench/results/figures")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(as_json(document(spec, results, rows, ratios)) + "\n", encoding="utf-8")
    pictures = draw_figure(spec, results, paper, folder / name)
    if rows:
        print(as_markdown(rows))
    if ratios:
        print(ratios_as_markdown(ratios + worst_of_all(ratios), spec.compared))
    print(f"{name}: {time.perf_counter() - started:.0f} s, {', '.join(map(str, pictures))}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.figures", description=__doc__)
    parser.add_argument("name", choices=[*figure_names(), "all"], help="which figure")
    parser.add_argument("--traces", type=Path, metavar="DIR", help="folder of the traces that workloads.toml names")
    parser.add_argument("--paper", type=Path, metavar="FILE", help="the paper's curves as CSV, to draw beside ours")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="default: bench/results/figures; build/figures when quick"
    )
    parser.add_argument("--quick", action="store_true", help="few, short runs: to see that it works")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=2, help="that simulate at once (default: 2)")
    return parser


def _progress(name: str):
    def show(done: int, total: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{name}: {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)

    return show


if __name__ == "__main__":
    raise SystemExit(main())
