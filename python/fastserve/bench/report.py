"""Figures as text and as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastserve.bench.load import LoadRun
from fastserve.bench.metrics import MAX_SEND_LATENESS_S

_TITLES = {
    "ttft": "Time to first token",
    "tpot": "Time per output token after the first",
    "itl": "Inter-token latency",
    "pause": "Longest pause of a request between two tokens",
    "e2el": "End-to-end latency",
    "normalized": "Normalised latency (end to end per output token)",
}
_ROWS = (
    ("Completed requests", "completed", "d"),
    ("Failed requests", "failed", "d"),
    ("Duration (s)", "duration", ".2f"),
    ("Input tokens", "total_input_tokens", "d"),
    ("Output tokens", "total_output_tokens", "d"),
    ("Request throughput (requests/s)", "request_throughput", ".2f"),
    ("Request goodput (requests/s)", "request_goodput", ".2f"),
    ("Output throughput (tokens/s)", "output_throughput", ".2f"),
    ("Total throughput (tokens/s)", "total_token_throughput", ".2f"),
    ("Peak output throughput (tokens/s)", "max_output_tokens_per_s", ".0f"),
    ("Most requests at once", "peak_concurrent_requests", "d"),
)
_WIDTH = 44


def text_report(summary: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """Return a summary as a table; rows that were not requested are omitted."""
    lines = [_row(title, summary[key], form) for title, key, form in _ROWS if summary.get(key) is not None]
    for metric in metrics:
        lines.append(f"-- {_TITLES[metric]}")
        for key, value in summary.items():
            statistic, _, rest = key.partition("_")
            if rest == f"{metric}_ms":
                lines.append(_row(f"{statistic} (ms)", value, ".2f"))
    for kind, count in summary["error_counts"].items():
        lines.append(f"!! {count} x {kind}: {summary['error_samples'][kind]}")
    return "\n".join(lines)


def lateness_warning(run: LoadRun, summary: Mapping[str, Any]) -> str:
    """Return a warning if requests were not sent in time; empty if they were."""
    if summary.get("kept_offered_rate", True):
        return ""
    share = 100 * sum(r.sent_s - r.due_s > MAX_SEND_LATENESS_S for r in run.results) / len(run.results)
    held = sum(r.start_s - r.due_s > MAX_SEND_LATENESS_S for r in run.results)
    slow = sum(r.sent_s - r.start_s > MAX_SEND_LATENESS_S for r in run.results)
    reason = (
        "this client was too slow: give it a core of its own, or several clients a part of the rate each"
        if slow > held
        else "the concurrency limit, or a turn still running, held them back"
    )
    return (
        f"could not keep the offered rate: {share:.0f} % of the requests were sent more than"
        f" {1e3 * MAX_SEND_LATENESS_S:g} ms late, up to {summary['max_send_lateness_ms'] / 1e3:.2f} s; {reason}"
    )


def detailed(run: LoadRun) -> dict[str, list[object]]:
    """Every request's own figures, in the order of the workload: lengths in tokens, times in seconds from the run's start.

    A request that failed has its kind of failure and what came of its reply; None stands for what did not come.
    """
    return {
        "input_lens": [r.prompt_tokens for r in run.results],
        "output_lens": [r.output_tokens for r in run.results],
        "due_times": [r.due_s for r in run.results],
        "start_times": [r.sent_s for r in run.results],
        "queue_times": [r.start_s - r.due_s for r in run.results],
        "latencies": [r.e2el_s if len(r.token_s) else None for r in run.results],
        "ttfts": [r.ttft_s if len(r.token_s) else None for r in run.results],
        "itls": [r.itls_s.tolist() for r in run.results],
        "errors": [r.error for r in run.results],
    }


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write one JSON object; its folder must exist."""
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _row(title: str, value: object, form: str) -> str:
    shown = "n/a" if value is None else format(value, form)
    return f"{title:<{_WIDTH}}{shown:>14}"
