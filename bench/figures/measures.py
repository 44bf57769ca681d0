"""What is kept of a simulation: a flat mapping of numbers, and the latencies of its requests in the order they finished."""

from collections.abc import Mapping

import numpy as np

from fastserve.sim import RequestTable, SimulationResult

# Of output tokens: short, middling, long; the first class ends below the first edge.
CLASS_EDGES = (100, 400)
CLASS_NAMES = ("short", "middling", "long")
_STATISTICS = {
    "normalized_latency_s": ("mean", "p95"),
    "e2e_s": ("mean", "p95", "max"),
    "ttft_s": ("mean", "p95"),
}
_COUNTERS = (
    "num_requests", "num_refused", "requests_per_s", "output_tokens_per_s", "queue_s", "swap_s", "parked_s", "run_s",
    "preemptions", "swaps", "recomputes", "recomputed_tokens", "offload_blocks", "upload_blocks", "cached_tokens",
    "thrash_governor_trips",
)  # fmt: skip
SERIES_BINS = 40  # of requests in the order of their ends


def measure(result: SimulationResult) -> dict[str, float]:
    """Every measure of a run by name; NaN where there is none."""
    summary = result.summary
    measures = {
        f"{name}.{statistic}": getattr(getattr(summary, name), statistic)
        for name, statistics in _STATISTICS.items()
        for statistic in statistics
    }
    measures |= {name: float(getattr(summary, name)) for name in _COUNTERS}
    return measures | _by_class(result.requests)


def series(result: SimulationResult) -> dict[str, list[float]]:
    """Mean latencies of consecutive requests in the order in which they arrived, SERIES_BINS of them."""
    table = result.requests
    columns = {
        "normalized_latency_s.mean": table.normalized_latency_s,
        "e2e_s.mean": table.e2e_s,
        "ttft_s.mean": table.ttft_s,
    }
    return {name: [_mean(part) for part in np.array_split(values, SERIES_BINS)] for name, values in columns.items()}


def mean_of(runs: list[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure over several runs."""
    return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}


def _by_class(table: RequestTable) -> dict[str, float]:
    which = np.digitize(table.output_tokens, CLASS_EDGES)
    latency = table.normalized_latency_s
    return {f"{name}_s": _mean(latency[which == i]) for i, name in enumerate(CLASS_NAMES)}


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
