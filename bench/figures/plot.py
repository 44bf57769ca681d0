"""Draws a figure: ours in solid lines, the paper's dashed."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from bench.figures.measures import CLASS_EDGES
from bench.figures.paper import PaperCurves
from bench.figures.run import PanelResult, Point
from bench.figures.spec import FigureSpec, Line, Panel

PANEL_INCHES = (4.3, 3.1)
SMALL_PANEL_INCHES = (3.4, 2.6)  # where there are four in a row
INCHES_PER_BAR = 1.1  # so that the names below the bars have room
INCHES_PER_LETTER = 0.085  # of the legend
LOWEST_BAR_S = 0.01  # bottom of a logarithmic axis
DPI = 100
COLORS = ("#4477aa", "#ee7733", "#228833", "#aa3377", "#66ccee", "#997700", "#bbbbbb")
MARKERS = "osD^vPX"

LABELS = {
    "rate": "request rate [requests/s]",
    "load": "request rate [x saturation of fcfs]",
    "starvation_limit_s": "starvation limit alpha [s]",
    "quantum_ratio": "ratio of quanta",
    "first_quantum_s": "first quantum [s]",
    "reserve_iterations": "reserve W [iterations]",
    "upload_margin": "upload margin above W [share of the device's blocks]",
    "thrash_parks_per_finish": "thrash governor: parks per finish",
    "max_prefill_chunk_tokens": "prefill chunk [tokens]",
    "num_gpu_blocks_override": "device KV pool [blocks of 16 tokens]",
    "normalized_latency_s.mean": "mean normalized latency\n[s/token]",
    "normalized_latency_s.p95": "p95 normalized latency\n[s/token]",
    "e2e_s.mean": "mean end-to-end [s]",
    "e2e_s.max": "longest end-to-end [s]",
    "ttft_s.mean": "mean time to first token [s]",
    "ttft_s.p95": "p95 time to first token [s]",
    "ttft_s.p99": "p99 time to first token [s]",
    "queue_s": "queue",
    "swap_s": "KV on the host or on its way",
    "parked_s": "parked, KV on the device or dropped",
    "run_s": "run",
    "short_s": f"< {CLASS_EDGES[0]} tokens",
    "middling_s": f"{CLASS_EDGES[0]} to {CLASS_EDGES[1] - 1}",
    "long_s": f">= {CLASS_EDGES[1]}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """One quantity of a figure."""

    spec: FigureSpec
    quantity: str
    paper: PaperCurves


def draw_figure(spec: FigureSpec, results: list[PanelResult], paper: PaperCurves, stem: Path) -> list[Path]:
    """Write the figure's pictures and return their paths: `stem`.png, and for further quantities `stem`-QUANTITY.png."""
    if spec.draw == "bars":
        return [_draw(spec, results, stem.with_suffix(".png"), lambda ax, panel, result: _bars(ax, spec, result))]
    one = _series if spec.draw == "series" else _curves
    paths = []
    for quantity in spec.quantities:
        words = quantity.replace("_s.", "-").replace("_", "-")
        tail = "" if quantity == spec.quantities[0] else f"-{words}"
        picture = _Picture(spec=spec, quantity=quantity, paper=paper)
        paths.append(_draw(spec, results, stem.with_name(f"{stem.name}{tail}.png"), partial(one, picture)))
    return paths


def _draw(
    spec: FigureSpec, results: list[PanelResult], path: Path, one: Callable[[Axes, Panel, PanelResult], None]
) -> Path:
    columns = min(spec.columns, len(results))
    rows = -(-len(results) // columns)
    bars = max(sum(map(len, result.points.values())) for result in results) if spec.draw == "bars" else 0
    width, height = PANEL_INCHES if columns < 4 else SMALL_PANEL_INCHES
    size = (max(width, INCHES_PER_BAR * bars) * columns, height * rows + 0.9)
    with plt.rc_context({"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True}):
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        for ax in axes.flat[len(results) :]:
            ax.set_axis_off()
        panels = {panel.title: panel for panel in spec.panels}
        for ax, result in zip(axes.flat, results, strict=False):
            one(ax=ax, panel=panels[result.title], result=result)
            ax.set_title(result.title, fontsize=10.5)
        figure.suptitle(spec.title, fontsize=12)
        handles: dict[str, object] = {}
        for ax in axes.flat:
            handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        ncols = max(1, min(len(handles), int(size[0] / (0.6 + INCHES_PER_LETTER * max(map(len, handles))))))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=ncols)
        _write(figure, path)
        plt.close(figure)
    return path


def _write(figure: plt.Figure, path: Path) -> None:
    """A PNG with a palette and without a date, so that it is small and the same every time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    buffer.seek(0)
    image = (
        Image.open(buffer)
        .convert("RGB")
        .quantize(colors=255, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    image.save(path, format="PNG", optimize=True)


def _curves(picture: _Picture, ax: Axes, panel: Panel, result: PanelResult) -> None:
    spec, quantity = picture.spec, picture.quantity
    for i, line in enumerate(spec.lines):
        points = result.points[line.name]
        x = [point.x for point in points]
        samples = np.array([point.samples[quantity] for point in points])
        if panel.relative_to is not None:
            samples /= samples[x.index(panel.relative_to)]
        # The first lines are broader: where curves coincide, both show.
        style = {"color": COLORS[i % len(COLORS)], "linewidth": max(1.6, 4.0 - 1.2 * i)}
        ax.plot(x, samples.mean(axis=1), marker=MARKERS[i % len(MARKERS)], markersize=4, label=line.name, **style)
        if samples.shape[1] > 1:
            ax.fill_between(x, samples.min(axis=1), samples.max(axis=1), color=style["color"], alpha=0.15, linewidth=0)
        for label, curve in _paper_curve(picture, panel, line):
            ax.plot(*zip(*curve, strict=True), label=label, color=style["color"], linestyle="--", linewidth=1.2)
    if panel.slo_s is not None:
        ax.axhline(panel.slo_s, color="black", linewidth=1, linestyle=":", label="SLO")
    _scale(ax, spec, panel, quantity)
    ax.set_xlabel(LABELS[spec.x_of(panel)])
    label = LABELS[quantity]
    if panel.relative_to is not None:
        label = f"{label.partition('[')[0].strip()}\nover that at {panel.relative_to:g}"
    ax.set_ylabel(label)


def _scale(ax: Axes, spec: FigureSpec, panel: Panel, quantity: str) -> None:
    """Axes; y_max is that of mean normalised latency, its p95 gets twice as much."""
    if spec.log_x:
        ax.set_xscale("log")
        ax.set_xticks(panel.values, [f"{value:g}" for value in panel.values])
        ax.minorticks_off()
    if spec.log_y:
        _log_y(ax)
    elif panel.y_max is not None and quantity.startswith("normalized_latency_s"):
        ax.set_ylim(0, panel.y_max * (2 if quantity.endswith("p95") else 1))
    elif panel.relative_to is None:
        ax.set_ylim(bottom=0)


def _log_y(ax: Axes) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(NullLocator())


def _paper_curve(picture: _Picture, panel: Panel, line: Line) -> list[tuple[str, list[tuple[float, float]]]]:
    """Label and points of the paper's curve for a line, if it has one."""
    name, _, statistic = picture.quantity.rpartition(".")
    if panel.paper is None or line.paper is None or name != "normalized_latency_s":
        return []
    points = picture.paper.find(statistic, panel.paper.dataset, panel.paper.setting, line.paper)
    return [(f"paper: {line.paper}", points)] if points else []


def _series(picture: _Picture, ax: Axes, panel: Panel, result: PanelResult) -> None:
    spec = picture.spec
    for i, line in enumerate(spec.lines):
        point = result.points[line.name][0]
        values = point.series[picture.quantity]
        x = (np.arange(len(values)) + 0.5) * point.measures["num_requests"] / len(values)
        ax.plot(x, values, label=line.name, color=COLORS[i % len(COLORS)], linewidth=1.8)
    _scale(ax, spec, panel, picture.quantity)
    ax.set_xlabel("request, in the order of arrival")
    ax.set_ylabel(LABELS[picture.quantity])


def _bars(ax: Axes, spec: FigureSpec, result: PanelResult) -> None:
    """A group per value of x; in it a bar per line made of parts, or, not stacked, a group per line of a bar per part."""
    bars: Sequence[tuple[str, Point]] = [
        (line.name if len(result.points[line.name]) == 1 else f"{line.name}\n{point.x:g}", point)
        for line in spec.lines
        for point in result.points[line.name]
    ]
    places = np.arange(len(bars), dtype=float)
    bottom = np.zeros(len(bars))
    width = 0.7 if spec.stacked else 0.8 / len(spec.quantities)
    for i, part in enumerate(spec.quantities):
        values = np.array([point.measures[part] for _, point in bars])
        offset = 0.0 if spec.stacked else (i - (len(spec.quantities) - 1) / 2) * width
        color = COLORS[i % len(COLORS)]
        ax.bar(places + offset, values, width, bottom=bottom if spec.stacked else None, label=LABELS[part], color=color)
        bottom += values
    ax.set_xticks(places, [name for name, _ in bars], fontsize=8.5)
    ax.grid(axis="x", visible=False)
    ax.set_ylabel("mean seconds of a request" if spec.stacked else LABELS["normalized_latency_s.mean"])
    if spec.log_y:
        _log_y(ax)
        ax.set_ylim(bottom=LOWEST_BAR_S)
