"""Pictures of runs; needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no display is needed, and none is looked for

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from fastserve.bench.load import LoadRun
from fastserve.bench.metrics import samples_ms
from fastserve.errors import InvalidArgumentError

FORMATS = (".png", ".svg", ".pdf")
NUM_BINS = 60


def check_plot_path(path: Path) -> Path:
    """The path, if a picture can be written there.

    Raises:
        InvalidArgumentError: no folder, or an ending that is no picture's.
    """
    if path.suffix not in FORMATS or not path.absolute().parent.is_dir():
        raise InvalidArgumentError(f"a plot must be a file {', '.join(FORMATS)} in a folder that exists, got {path}")
    return path


def plot_run(path: Path, run: LoadRun, metrics: Sequence[str], *, title: str) -> None:
    """Shares of requests below each latency, and what the server did over time."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    figure.suptitle(title)
    done = [result for result in run.results if not result.error]
    for metric in metrics:
        samples = np.sort(samples_ms(done, metric))
        if len(samples):
            left.plot(samples, np.arange(1, len(samples) + 1) / len(samples), label=metric)
    left.set(xscale="log", xlabel="milliseconds", ylabel="share at or below", ylim=(0, 1))
    left.grid(alpha=0.3)
    if done:
        left.legend()
    edges = np.linspace(0.0, max(run.duration_s, 1e-9), NUM_BINS + 1)
    pieces = np.concatenate([np.zeros(0), *(result.token_s for result in done)])
    right.stairs(np.histogram(pieces, edges)[0] / np.diff(edges), edges, label="pieces of replies per second")
    right.set(xlabel="seconds", ylabel="1/s")
    running = right.twinx()
    sent = np.sort([result.sent_s for result in run.results])
    ended = np.sort([result.finished_s for result in run.results])
    under_way = np.searchsorted(sent, edges, "right") - np.searchsorted(ended, edges, "right")
    running.plot(edges, under_way, color="tab:red", label="requests under way")
    running.set(ylabel="requests", ylim=(0, None))
    figure.legend(handles=[*right.patches, *running.lines], loc="outside lower right", ncols=2)
    _save(figure, path)


def plot_sweep(path: Path, curves: Mapping[str, Sequence[tuple[float, float]]], limit: float, *, metric: str) -> None:
    """A latency over the arrival rate, one curve of (rate, milliseconds) per server, and the limit."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, points in curves.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.axhline(limit, color="gray", linestyle="--", label="limit")
    axes.set(xscale="log", yscale="log", xlabel="requests per second", ylabel=metric)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=150)
    plt.close(figure)
