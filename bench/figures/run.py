"""Runs the simulations of a figure, in two processes at most."""

import math
import multiprocessing
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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
    """The points of each line by its name, and, where lines say their load, the request rate that is a load of 1."""

    title: str
    points: dict[str, list[Point]]
    saturation_rates: dict[str, float] = field(default_factory=dict)


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
        for run in run_all(partial(_simulate, traces, spec.draw == "series"), [task.settings for task in tasks]):
            runs.append(run)
            if progress is not None:
                progress(len(runs), len(tasks))
    results = [
        PanelResult(
            title=panel.title,
            points={line.name: [] for line in spec.lines},
            saturation_rates={line: rate for (title, line), rate in saturation.items() if title == panel.title},
        )
        for panel in panels
    ]
    for task, seeds in zip(tasks, runs, strict=True):
        results[task.panel].points[task.line].append(_point(spec, task.x, seeds))
    return results


@dataclass(frozen=True, slots=True)
class _Task:
    """The runs of one point."""

    panel: int
    line: str
    x: float
    settings: RunSettings


def _tasks(
    spec: FigureSpec, panels: list[Panel], saturation: dict[tuple[str, str], float], quick: bool
) -> Iterable[_Task]:
    for number, panel in enumerate(panels):
        for line in spec.lines:
            for index, x in enumerate(panel.values):
                settings = _shrunk(spec.settings(panel, line, index), quick)
                if settings.load is not None:
                    rate = settings.load * saturation[panel.title, line.name]
                    settings = replace(settings, rate=rate, load=None)
                yield _Task(number, line.name, x, settings)


def _saturation(
    spec: FigureSpec, panels: list[Panel], quick: bool, rates: Callable[[list[RunSettings]], Iterable[float]]
) -> dict[tuple[str, str], float]:
    """By panel and line, the requests per second that fcfs finishes when all are there at once; only where loads are said."""
    wanted = {
        (panel.title, line.name): _shrunk(spec.saturation_settings(panel, line), quick)
        for panel in panels
        for line in spec.lines
        if spec.settings(panel, line, 0).load is not None
    }
    different = list(dict.fromkeys(wanted.values()))
    found = dict(zip(different, rates(different), strict=True))
    return {names: found[settings] for names, settings in wanted.items()}


def _saturated_rate(traces: Path | None, settings: RunSettings) -> float:
    workload = make_workload(settings.workload, traces, rate=math.inf, count=settings.requests, seed=0)
    deployment, scheduler = settings.deployment(), settings.scheduler_config()
    return simulate(workload, deployment, scheduler, endings=settings.endings).summary.requests_per_s


def _simulate(
    traces: Path | None, with_series: bool, settings: RunSettings
) -> list[tuple[dict[str, float], dict[str, list[float]]]]:
    """Measures and series of the runs with each seed."""
    deployment, scheduler = settings.deployment(), settings.scheduler_config()
    runs = []
    for seed in range(settings.first_seed, settings.first_seed + settings.seeds):
        workload = make_workload(settings.workload, traces, rate=settings.rate, count=settings.requests, seed=seed)
        result = simulate(
            workload,
            deployment,
            scheduler,
            enable_prefix_caching=settings.prefix_caching,
            endings=settings.endings,
        )
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
