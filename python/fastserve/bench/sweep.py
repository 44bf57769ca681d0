"""`fastserve bench sweep`: the arrival rate that a server takes within a limit; two servers take turns."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastserve.bench.client import Target
from fastserve.bench.load import LoadOptions, run_load
from fastserve.bench.metrics import METRICS, summarize
from fastserve.bench.rate_search import RateGrid, RateSearch
from fastserve.bench.report import lateness_warning, write_json
from fastserve.bench.serve import allow_many_connections, warm_up, with_model
from fastserve.errors import InvalidArgumentError
from fastserve.workload import Workload

MakeWorkload = Callable[[float, int], Workload]  # (arrivals per second, number of requests)

_FIGURE = re.compile(r"(mean|median|p(?P<percentile>\d+(\.\d+)?))_(?P<metric>[a-z0-9]+)_ms")


@dataclass(frozen=True, slots=True)
class Slo:
    """A limit on one figure of a run, for example p95_ttft_ms <= 500; a run with a failed request misses it."""

    figure: str
    limit_ms: float

    @classmethod
    def parse(cls, text: str) -> "Slo":
        """From FIGURE:MILLISECONDS.

        Raises:
            InvalidArgumentError: no such figure, or the limit is not above 0.
        """
        figure, _, limit = text.partition(":")
        found = _FIGURE.fullmatch(figure)
        try:
            limit_ms = float(limit)
        except ValueError:
            limit_ms = 0.0
        if found is None or found["metric"] not in METRICS or not 0 < limit_ms < math.inf:
            raise InvalidArgumentError(
                "an SLO must be FIGURE:MILLISECONDS with a figure such as mean_normalized_ms, median_ttft_ms or"
                f" p95_tpot_ms (metrics: {', '.join(METRICS)}), got {text!r}"
            )
        if found["percentile"] and not float(found["percentile"]) <= 100:
            raise InvalidArgumentError(f"a percentile must be at most 100, got {figure}")
        return cls(figure, limit_ms)

    @property
    def percentiles(self) -> tuple[float, ...]:
        """The percentile that the figure is, to be computed."""
        found = _FIGURE.fullmatch(self.figure)
        return (float(found["percentile"]),) if found and found["percentile"] else ()

    def excess(self, summary: Mapping[str, Any]) -> float:
        """The figure over its limit; inf when a request failed or the figure does not exist."""
        value = summary[self.figure]
        return math.inf if summary["failed"] or value is None else float(value) / self.limit_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """What to search: rates, limit and length of each run.

    Attributes:
        slo: the limit.
        grid: rates.
        min_requests: per rate, at least.
        seconds_per_rate: arrivals last at least this long.
    """

    slo: Slo
    grid: RateGrid
    min_requests: int = 100
    seconds_per_rate: float = 30.0

    def num_requests(self, rate: float) -> int:
        """Requests to send at a rate."""
        return max(self.min_requests, math.ceil(rate * self.seconds_per_rate))


@dataclass(slots=True)
class Contender:
    """A server under test, its search, and the summary of every rate tried."""

    name: str
    target: Target
    search: RateSearch
    runs: dict[float, dict[str, Any]] = field(default_factory=dict)


def sweep(contenders: Sequence[Contender], plan: SweepPlan, options: LoadOptions, make_workload: MakeWorkload) -> None:
    """Search for all contenders in turns, so that a drift of the machine hits all; prints a line per run."""
    while any(contender.search.next_rate() is not None for contender in contenders):
        for contender in contenders:
            rate = contender.search.next_rate()
            if rate is None:
                continue
            run = run_load(contender.target, make_workload(rate, plan.num_requests(rate)), options)
            summary = summarize(run, percentiles=sorted({99.0, *plan.slo.percentiles}))
            contender.runs[rate] = summary
            excess = plan.slo.excess(summary)
            contender.search.record(excess)
            value = summary[plan.slo.figure]
            shown = "n/a" if value is None else f"{value:.1f}"
            print(
                f"{contender.name:>12} {rate:9.3f}/s {len(run.results):6d} requests  {plan.slo.figure} {shown:>10}"
                f"  {'met' if excess <= 1 else 'missed'}  output {summary['output_throughput']:8.1f} tokens/s"
                f"  failed {summary['failed']}",
                flush=True,
            )
            if warning := lateness_warning(run, summary):
                print(f"{'':>12} warning: {warning}", flush=True)


def bench_sweep(
    targets: Mapping[str, Target],
    plan: SweepPlan,
    options: LoadOptions,
    make_workload: MakeWorkload,
    *,
    num_warmups: int = 1,
    result: Path | None = None,
    plot: Path | None = None,
) -> int:
    """Warm up, search, print a table, save; returns 0.

    Raises:
        FastServeError: a server does not answer, or a warm-up request failed.
    """
    allow_many_connections()
    contenders = [Contender(name, with_model(target), RateSearch(plan.grid)) for name, target in targets.items()]
    for contender in contenders:
        warm_up(contender.target, make_workload(plan.grid.min_rate, max(num_warmups, 1)), options, num_warmups)
    sweep(contenders, plan, options, make_workload)
    print(table(contenders, plan))
    if result is not None:
        write_json(result, report(contenders, plan))
    if plot is not None:
        from fastserve.bench.plot import plot_sweep

        curves = {
            c.name: [(rate, run[plan.slo.figure]) for rate, run in c.runs.items() if run[plan.slo.figure] is not None]
            for c in contenders
        }
        plot_sweep(plot, curves, plan.slo.limit_ms, metric=plan.slo.figure)
    return 0


def table(contenders: Sequence[Contender], plan: SweepPlan) -> str:
    """Rates within the limit, and the ratio of the first server's to each other's."""
    lines = [f"highest rate with {plan.slo.figure} <= {plan.slo.limit_ms:g} and no failed request"]
    first = contenders[0]
    for contender in contenders:
        search = contender.search
        more = "" if search.is_bounded else " or more"
        ratio = ""
        if contender is not first and search.rate and search.is_bounded and first.search.is_bounded:
            ratio = f"  ({first.name} takes {first.search.rate / search.rate:.2f} x as many)"
        lines.append(f"{contender.name:>12} {search.rate:9.3f} requests/s{more}{ratio}")
    return "\n".join(lines)


def report(contenders: Sequence[Contender], plan: SweepPlan) -> dict[str, object]:
    """Everything as JSON values."""
    return {
        "slo": {plan.slo.figure: plan.slo.limit_ms},
        "min_requests": plan.min_requests,
        "seconds_per_rate": plan.seconds_per_rate,
        "servers": {
            c.name: {
                "base_url": c.target.base_url,
                "model_id": c.target.model,
                "rate": c.search.rate,
                "is_bounded": c.search.is_bounded,
                "runs": [{"request_rate": rate} | run for rate, run in sorted(c.runs.items())],
            }
            for c in contenders
        },
    }
