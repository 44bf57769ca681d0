"""A simulation in a few numbers."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from fastserve.engine.core import EngineCore
from fastserve.sim.requests import RequestTable


def plain_values(values: dict[str, object]) -> dict[str, object]:
    """Return the value with None for NaN and infinity, which JSON cannot express."""

    def plain(value: object) -> object:
        if isinstance(value, dict):
            return plain_values(value)
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: plain(value) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Distribution:
    """Of a quantity over requests; NaN when there are none."""

    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: np.ndarray) -> "Distribution":
        """Of all values that are numbers."""
        values = values[~np.isnan(values)]
        if not values.size:
            return cls(*[float("nan")] * 5)
        return cls(float(values.mean()), *np.percentile(values, (50, 95, 99, 100)).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Of one run. Seconds are simulated ones; distributions are over finished requests.

    Attributes:
        gap_s: between two tokens of a request, over all gaps; NaN where they were not recorded.
        longest_pause_s: the longest of these of each request.
        goodput_per_s: finished requests that kept all objectives, over the duration; None without objectives.
        goodput_share: the same over all requests.
        num_refused: requests too long for the model or the pool.
        duration_s: first arrival to last token.
        requests_per_s, output_tokens_per_s: finished over the duration.
        busy_share: of the duration, in iterations.
        queue_s, swap_s, parked_s, run_s: mean seconds of a request before its first iteration; with its KV away; left out of
            the batch with its KV on the device; in the batch.
        swaps: times a request's KV was moved to the host; recomputes: dropped instead.
    """

    num_requests: int
    num_refused: int
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    normalized_latency_s: Distribution
    e2e_s: Distribution
    ttft_s: Distribution
    tpot_s: Distribution
    gap_s: Distribution
    longest_pause_s: Distribution
    goodput_per_s: float | None
    goodput_share: float | None
    queue_s: float
    swap_s: float
    parked_s: float
    run_s: float
    iterations: int
    busy_share: float
    preemptions: int
    promotions: int
    demotions: int
    swaps: int
    recomputes: int
    recomputed_tokens: int
    offload_blocks: int
    mirror_blocks: int
    upload_blocks: int
    cached_tokens: int
    thrash_governor_trips: int

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON; None where there is no number."""
        return plain_values(asdict(self))


@dataclass(frozen=True, slots=True)
class RunCounters:
    """Counters of the scheduler and the engine in a run."""

    iterations: int
    busy_s: float
    preemptions: int
    promotions: int
    demotions: int
    swaps: int
    recomputes: int
    recomputed_tokens: int
    offload_blocks: int
    mirror_blocks: int
    upload_blocks: int
    thrash_governor_trips: int

    @classmethod
    def of(cls, core: EngineCore) -> "RunCounters":
        """Of a core, since it was made."""
        engine, scheduler = core.stats(), core.scheduler.stats()
        return cls(
            iterations=engine.iterations,
            busy_s=engine.execute_s,
            preemptions=scheduler.preemptions,
            promotions=scheduler.promotions,
            demotions=scheduler.demotions,
            swaps=scheduler.swaps,
            recomputes=scheduler.recomputes,
            recomputed_tokens=scheduler.recomputed_tokens,
            offload_blocks=scheduler.offload_blocks,
            mirror_blocks=scheduler.mirror_blocks,
            upload_blocks=scheduler.upload_blocks,
            thrash_governor_trips=scheduler.thrash_governor_trips,
        )


OBJECTIVES = ("ttft_s", "tpot_s", "longest_pause_s", "e2e_s", "normalized_latency_s")  # columns that may have a limit


def summarize(
    table: RequestTable,
    counters: RunCounters,
    *,
    gaps: Distribution | None = None,
    objectives_s: Mapping[str, float] | None = None,
) -> Summary:
    """The summary of a run.

    Args:
        gaps: between tokens, where they were recorded.
        objectives_s: limits per column of OBJECTIVES that a good request keeps; one that it has no value of is kept.
    """
    done = table.is_finished
    num_done = int(done.sum())
    duration_s = float(table.finish_s[done].max() - table.arrival_s.min()) if num_done else 0.0
    per_s = 1.0 / duration_s if duration_s > 0 else 0.0
    values = {name: getattr(table, name)[done] for name in ("queue_s", "parked_s", "host_s", "upload_wait_s", "e2e_s")}
    mean = {name: float(column.mean()) if num_done else 0.0 for name, column in values.items()}
    swap_s = mean["host_s"] + mean["upload_wait_s"]
    num_good = None if objectives_s is None else int(_is_good(table, objectives_s).sum())
    plain = asdict(counters)
    busy_s = plain.pop("busy_s")
    return Summary(
        num_requests=len(table),
        num_refused=len(table) - num_done,
        duration_s=duration_s,
        requests_per_s=num_done * per_s,
        output_tokens_per_s=float(table.output_tokens[done].sum()) * per_s,
        normalized_latency_s=Distribution.of(table.normalized_latency_s),
        e2e_s=Distribution.of(table.e2e_s),
        ttft_s=Distribution.of(table.ttft_s),
        tpot_s=Distribution.of(table.tpot_s),
        gap_s=gaps or Distribution.of(np.empty(0)),
        longest_pause_s=Distribution.of(table.longest_pause_s),
        goodput_per_s=None if num_good is None else num_good * per_s,
        goodput_share=None if num_good is None else num_good / max(len(table), 1),
        queue_s=mean["queue_s"],
        swap_s=swap_s,
        parked_s=mean["parked_s"],
        run_s=mean["e2e_s"] - mean["queue_s"] - mean["parked_s"] - swap_s,
        busy_share=busy_s * per_s,
        cached_tokens=int(table.cached_tokens.sum()),
        **plain,
    )


def _is_good(table: RequestTable, objectives_s: Mapping[str, float]) -> np.ndarray:
    """bool[n]: it finished and kept every limit."""
    good = table.is_finished
    for name, limit_s in objectives_s.items():
        good = good & ~(getattr(table, name) > limit_s)  # a column may have NaN: no second token, no gap
    return good
