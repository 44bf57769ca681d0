"""Runs the simulations of a figure, in two processes at most."""

import math
import multiprocessing
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from bench.figures.measures import mean_of, measure, series
from bench.figures.settings import RunSettings
from bench.figures.spec import FigureSpec, Panel
from bench.figures.workloads import make_workload
from fastserve.sim import simulate

QUICK_REQUESTS = 60
SIGNIFICANT_DIGITS = 5

# Called as progress(runs made, runs to make).
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What the runs of one line at one value of the x axis gave, whatever their seed.

    Attributes:
        x: the value.
        samples: per seed, each quantity of the figure.
        measures: means over the seeds.
        series: latencies of the requests in the order of their arrival, means over the seeds; only where they are drawn.
    """

    x: float
    samples: dict[str, list[float]]
    measures: dict[str, float]
    series: dict[str, list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelResult:
    """The points of each line by its name, and the request rate at which fcfs is saturated where x is the load."""

    title: str
    points: dict[str, list[Point]]
    saturation_rate: float | None = None


def run_figure(
    spec: FigureSpec,
    *,
    traces: Path | None = None,
    quick: bool = False,
    processes: int = 2,
    progress: Progress | None = None,
) -> list[PanelResult]:
    """Make every run of a figure.

    Args:
        traces: folder of trace files; may be None when the figure needs none.
        quick: fewer values, requests and seeds: to see that it works.
        processes: that simulate at once.
    Raises:
        InvalidArgumentError: a run's settings are impossible, or its trace is missing.
    """
    panels = [_thinned(panel) for panel in spec.panels] if quick else list(spec.panels)
    with _mapper(processes) as run_all:
        saturation = _saturation(spec, panels, quick, partial(run_all, partial(_saturated_rate, traces)))
        tasks = list(_tasks(spec, panels, saturation, quick))
        runs = []
        for run in run_all(partial(_simulate, traces, spec.draw == "series"), [settings for *_, settings in tasks]):
            runs.append(run)
            if progress is not None:
                progress(len(runs), len(tasks))
    results = [
        PanelResult(title=p.title, points={}, saturation_rate=s) for p, s in zip(panels, saturation, strict=True)
    ]
    for (panel, line, index, _), seeds in zip(tasks, runs, strict=True):
        point = _point(spec, panels[panel].values[index], seeds)
        results[panel].points.setdefault(line, []).append(point)
    return results


def _tasks(
    spec: FigureSpec, panels: list[Panel], saturation: list[float | None], quick: bool
) -> Iterable[tuple[int, str, int, RunSettings]]:
    """Panel, line, index of the value and settings of every point."""
    for number, panel in enumerate(panels):
        for line in spec.lines:
            for index in range(len(panel.values)):
                settings = _shrunk(spec.settings(panel, line, index), quick)
                if settings.load is not None:
                    settings = replace(settings, rate=settings.load * saturation[number], load=None)
                yield number, line.name, index, settings


def _saturation(
    spec: FigureSpec, panels: list[Panel], quick: bool, rates: Callable[[list[RunSettings]], Iterable[float]]
) -> list[float | None]:
    """Of each panel, the requests per second that fcfs finishes when all are there at once; None where nothing needs it."""
    wanted = {}
    for number, panel in enumerate(panels):
        settings = _shrunk(spec.settings(panel, spec.lines[0], 0), quick)
        if settings.load is not None:
            wanted[number] = replace(settings, scheduler=_as_fcfs(settings), seeds=1, load=None)
    found = dict(zip(wanted, rates(list(wanted.values())), strict=True))
    return [found.get(number) for number in range(len(panels))]


def _as_fcfs(settings: RunSettings) -> tuple[tuple[str, object], ...]:
    return tuple(sorted((dict(settings.scheduler) | {"scheduling_policy": "fcfs"}).items()))


def _saturated_rate(traces: Path | None, settings: RunSettings) -> float:
    workload = make_workload(settings.workload, traces, rate=math.inf, count=settings.requests, seed=0)
    return simulate(workload, settings.deployment(), settings.scheduler_config()).summary.requests_per_s


def _simulate(
    traces: Path | None, with_series: bool, settings: RunSettings
) -> list[tuple[dict[str, float], dict[str, list[float]]]]:
    """Measures and series of the runs with each seed."""
    deployment, scheduler = settings.deployment(), settings.scheduler_config()
    runs = []
    for seed in range(settings.seeds):
        workload = make_workload(settings.workload, traces, rate=settings.rate, count=settings.requests, seed=seed)
        result = simulate(workload, deployment, scheduler, enable_prefix_caching=settings.prefix_caching)
        runs.append((measure(result), series(result) if with_series else {}))
    return runs


def _point(spec: FigureSpec, x: float, seeds: list[tuple[dict[str, float], dict[str, list[float]]]]) -> Point:
    measures = [measures for measures, _ in seeds]
    lists = [values for _, values in seeds]
    return Point(
        x=x,
        samples={name: [_rounded(run[name]) for run in measures] for name in spec.quantities},
        measures={name: _rounded(value) for name, value in mean_of(measures).items()},
        series={name: [_rounded(v) for v in np.mean([s[name] for s in lists], axis=0)] for name in lists[0]},
    )


def _rounded(value: float) -> float:
    """Enough digits to draw, few enough to store."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def _thinned(panel: Panel) -> Panel:
    step = max(1, len(panel.values) // 3)
    return replace(panel, values=panel.values[::step], requests=panel.requests[::step])


def _shrunk(settings: RunSettings, quick: bool) -> RunSettings:
    return replace(settings, requests=min(settings.requests, QUICK_REQUESTS), seeds=1) if quick else settings


@contextmanager
def _mapper(processes: int):
    """A map over items, in order, in as many processes."""
    if processes == 1:
        yield map
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield pool.imap
