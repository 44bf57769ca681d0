"""`fastserve bench serve`: one workload against one server."""

import asyncio
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fastserve.bench.client import Target, find_model
from fastserve.bench.load import LoadOptions, LoadRun, run_load
from fastserve.bench.metrics import METRICS, summarize
from fastserve.bench.progress import Progress
from fastserve.bench.report import detailed, lateness_warning, text_report, write_json
from fastserve.errors import FastServeError
from fastserve.workload import Workload

# Flipped in the seed of warm-up prompts: no seed that a person would choose gives the same ones.
WARM_UP_SEED = 1 << 40


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeReport:
    """What to report of a run.

    Attributes:
        metrics: shown and saved, of METRICS.
        percentiles: of each, in [0, 100].
        goodput_ms: limits per metric; None = no goodput.
        result: JSON file to write; None = none.
        detail: with every request's own figures.
        plot: picture to write; None = none.
        facts: more entries of the JSON file.
    """

    metrics: Sequence[str] = METRICS
    percentiles: Sequence[float] = (95, 99)
    goodput_ms: Mapping[str, float] | None = None
    result: Path | None = None
    detail: bool = False
    plot: Path | None = None
    facts: Mapping[str, object] = field(default_factory=dict)


def bench_serve(
    target: Target, workload: Workload, options: LoadOptions, report: ServeReport, *, num_warmups: int = 1
) -> int:
    """Run, print, save; returns 0 when every request completed, else 1.

    Raises:
        FastServeError: the server does not answer, or a warm-up request failed.
    """
    allow_many_connections()
    target = with_model(target)
    warm_up(target, workload, options, num_warmups)
    print(f"sending {len(workload)} requests to {target.base_url}{target.endpoint}, model {target.model}", flush=True)
    with Progress(len(workload)) as progress:
        run = run_load(target, workload, options, on_finish=progress.add)
    summary = summarize(run, metrics=report.metrics, percentiles=report.percentiles, goodput_ms=report.goodput_ms)
    print(text_report(summary, report.metrics))
    if warning := lateness_warning(run, summary):
        print(f"warning: {warning}", file=sys.stderr)
    if report.result is not None:
        write_json(report.result, _document(target, report, run, summary))
    if report.plot is not None:
        from fastserve.bench.plot import plot_run

        plot_run(report.plot, run, report.metrics, title=f"{workload.name}, {len(workload)} requests")
    return 0 if summary["failed"] == 0 else 1


def with_model(target: Target) -> Target:
    """Return the target, with the first model of its server if none is named; raises as `find_model`."""
    return target if target.model else replace(target, model=asyncio.run(find_model(target.base_url, target.api_key)))


def warm_up(target: Target, workload: Workload, options: LoadOptions, count: int) -> None:
    """Send a few requests at once whose prompts are in no measured one.

    Raises:
        FastServeError: one failed; carries the server's words.
    """
    if count:
        part = workload.head(count)
        first = replace(part, arrival_s=0.0 * part.arrival_s, seed=workload.seed ^ WARM_UP_SEED, prompts=None)
        for result in run_load(target, first, options).results:
            if result.error:
                raise FastServeError(f"the warm-up request failed: {result.error}: {result.detail}")


def allow_many_connections() -> None:
    """Raise the soft limit of open files to the hard one: an overloaded server holds thousands of connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _document(target: Target, report: ServeReport, run: LoadRun, summary: Mapping[str, object]) -> dict[str, object]:
    document: dict[str, object] = {
        "date": time.strftime("%Y%m%d-%H%M%S"),
        "base_url": target.base_url,
        "endpoint": target.endpoint,
        "model_id": target.model,
        "num_prompts": len(run.results),
        **report.facts,
        **summary,
    }
    return document | detailed(run) if report.detail else document
