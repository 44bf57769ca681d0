"""The figures of a run, under the names that `vllm bench serve` gives them, and a few of ours."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from fastserve.bench.load import LoadRun
from fastserve.bench.result import RequestResult
from fastserve.errors import InvalidArgumentError

METRICS = ("ttft", "tpot", "itl", "pause", "e2el", "normalized")

# Sends later than this on the 99th percentile mean that the offered rate was another than the one asked for.
MAX_SEND_LATENESS_S = 0.05

MS = 1e3


def summarize(
    run: LoadRun,
    *,
    metrics: Sequence[str] = METRICS,
    percentiles: Sequence[float] = (99,),
    goodput_ms: Mapping[str, float] | None = None,
) -> dict[str, object]:
    """Figures of a run; those of an empty set are None.

    Args:
        run: what was measured.
        metrics: of METRICS, to give mean, median, standard deviation and percentiles of.
        percentiles: in [0, 100].
        goodput_ms: limits per metric; a request counts for goodput when it completed and keeps all of them.
    Returns:
        Times in milliseconds, rates per second; see docs/benchmarking.md.
    """
    done = [result for result in run.results if not result.error]
    failed = [result for result in run.results if result.error]
    inputs = sum(result.prompt_tokens for result in done)
    outputs = sum(result.output_tokens for result in done)
    span_s = run.duration_s or float("nan")
    good = None if goodput_ms is None else sum(is_good(result, goodput_ms) for result in done) / span_s
    summary: dict[str, object] = {
        "duration": run.duration_s,
        "completed": len(done),
        "failed": len(failed),
        "error_counts": dict(Counter(result.error for result in failed).most_common()),
        "error_samples": {result.error: result.detail for result in reversed(failed)},
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(done) / span_s,
        "request_goodput": good,
        "output_throughput": outputs / span_s,
        "total_token_throughput": (inputs + outputs) / span_s,
        "peak_concurrent_requests": _peak_concurrency(run.results),
    }
    summary |= _busiest_seconds(done)
    for metric in metrics:
        summary |= _distribution(metric, samples_ms(done, metric), percentiles)
    return summary | _lateness(run.results)


def samples_ms(done: Sequence[RequestResult], metric: str) -> np.ndarray:
    """Every sample of a metric, milliseconds; for "itl" one per gap, else one per request that has it.

    Raises:
        InvalidArgumentError: unknown metric.
    """
    if metric not in METRICS:
        raise InvalidArgumentError(f"a metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if metric == "itl":
        return MS * np.concatenate([result.itls_s for result in done]) if done else np.zeros(0)
    values = (getattr(result, f"{metric}_s") for result in done)
    return MS * np.array([value for value in values if value is not None], np.float64)


def is_good(result: RequestResult, goodput_ms: Mapping[str, float]) -> bool:
    """Whether a completed request keeps all limits; of inter-token latency, every gap."""
    return all((samples_ms([result], metric) <= limit).all() for metric, limit in goodput_ms.items())


def parse_limits(words: Sequence[str]) -> dict[str, float]:
    """Limits per metric, milliseconds, from words such as "ttft:200" or "ttft:200,tpot:50".

    Raises:
        InvalidArgumentError: a word has another form, an unknown metric or a limit that is not above 0.
    """
    limits: dict[str, float] = {}
    for word in ",".join(words).split(","):
        metric, _, text = word.partition(":")
        try:
            limit = float(text)
        except ValueError:
            limit = 0.0
        if metric not in METRICS or not limit > 0:
            raise InvalidArgumentError(
                f"a limit must be METRIC:MILLISECONDS with a metric of {', '.join(METRICS)}, got {word!r}"
            )
        limits[metric] = limit
    return limits


def _distribution(metric: str, samples: np.ndarray, percentiles: Sequence[float]) -> dict[str, float | None]:
    names = [f"mean_{metric}_ms", f"median_{metric}_ms", f"std_{metric}_ms"]
    names += [f"p{_short(percentile)}_{metric}_ms" for percentile in percentiles]
    if not len(samples):
        return dict.fromkeys(names)
    values = [samples.mean(), np.median(samples), samples.std(), *np.percentile(samples, percentiles)]
    return dict(zip(names, map(float, values), strict=True))


def _short(percentile: float) -> str:
    return str(int(percentile)) if percentile == int(percentile) else str(percentile)


def _busiest_seconds(done: Sequence[RequestResult]) -> dict[str, float | int]:
    """Pieces that came in one second of the run, and requests that were under way in some part of one, at most.

    The first request begins a second. A request that ends as another begins counts beside it when both do so in one second:
    see `peak_concurrent_requests` for how many there were at one time.
    """
    if not done:
        return {"max_output_tokens_per_s": 0.0, "max_concurrent_requests": 0}
    origin_s = min(result.sent_s for result in done)
    pieces = np.bincount(np.concatenate([result.token_s - origin_s for result in done]).astype(np.int64))
    began = np.bincount([int(result.sent_s - origin_s) for result in done], minlength=len(pieces) + 1)
    ended = np.bincount([int(result.token_s[-1] - origin_s) + 1 for result in done], minlength=len(pieces) + 1)
    return {
        "max_output_tokens_per_s": float(pieces.max()),
        "max_concurrent_requests": int(np.cumsum(began - ended).max()),
    }


def _lateness(results: Sequence[RequestResult]) -> dict[str, float | bool | None]:
    late_ms = MS * np.array([result.sent_s - result.due_s for result in results])
    if not len(late_ms):
        return {}
    p99_ms = float(np.percentile(late_ms, 99))
    all_at_once = results[0].due_s == results[-1].due_s  # which is no rate
    return {
        "mean_send_lateness_ms": float(late_ms.mean()),
        "p99_send_lateness_ms": p99_ms,
        "max_send_lateness_ms": float(late_ms.max()),
        "kept_offered_rate": all_at_once or p99_ms <= MS * MAX_SEND_LATENESS_S,
    }


def _peak_concurrency(results: Sequence[RequestResult]) -> int:
    times = np.array([(result.sent_s, result.finished_s) for result in results]).reshape(-1, 2)
    change = np.repeat([1, -1], len(times))
    order = np.lexsort((change, times.T.ravel()))  # an end before a beginning at the same time
    return int(np.cumsum(change[order]).max(initial=0))
