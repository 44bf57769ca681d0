"""Figures against numpy on synthetic results."""

from dataclasses import replace

import numpy as np
import pytest

from fastserve.bench.load import LoadRun
from fastserve.bench.metrics import METRICS, is_good, parse_limits, samples_ms, summarize
from fastserve.bench.report import detailed, text_report
from fastserve.bench.result import RequestResult
from fastserve.errors import InvalidArgumentError


def synthetic_run(count: int = 200) -> LoadRun:
    rng = np.random.default_rng(0)
    results = []
    for i in range(count):
        start_s = i * 0.1
        token_s = start_s + 0.05 + np.cumsum(rng.exponential(0.02, rng.integers(1, 30)))
        results.append(
            RequestResult(
                index=i, due_s=start_s, start_s=start_s, sent_s=start_s + 0.001, finished_s=float(token_s[-1]) + 0.001,
                token_s=token_s, prompt_tokens=10, output_tokens=len(token_s),
            )
        )  # fmt: skip
    return LoadRun(results=tuple(results), duration_s=max(r.finished_s for r in results))


def test_figures_are_those_of_numpy():
    run = synthetic_run()
    summary = summarize(run, percentiles=(50, 95, 99.9))
    ttft = np.array([r.token_s[0] - r.start_s for r in run.results]) * 1e3
    tpot = np.array([
        (r.token_s[-1] - r.token_s[0]) / (len(r.token_s) - 1) for r in run.results if len(r.token_s) > 1
    ]) * 1e3  # fmt: skip
    itl = np.concatenate([np.diff(r.token_s) for r in run.results]) * 1e3
    normalized = np.array([(r.token_s[-1] - r.start_s) / len(r.token_s) for r in run.results]) * 1e3
    e2el = np.array([r.token_s[-1] - r.start_s for r in run.results]) * 1e3
    pause = np.array([np.diff(r.token_s).max() for r in run.results if len(r.token_s) > 1]) * 1e3
    for name, samples in (
        ("ttft", ttft), ("tpot", tpot), ("itl", itl), ("pause", pause), ("normalized", normalized), ("e2el", e2el)
    ):  # fmt: skip
        assert summary[f"mean_{name}_ms"] == pytest.approx(samples.mean())
        assert summary[f"median_{name}_ms"] == pytest.approx(np.median(samples)) == summary[f"p50_{name}_ms"]
        assert summary[f"std_{name}_ms"] == pytest.approx(samples.std())
        assert summary[f"p95_{name}_ms"] == pytest.approx(np.percentile(samples, 95))
        assert summary[f"p99.9_{name}_ms"] == pytest.approx(np.percentile(samples, 99.9))
    tokens = sum(len(r.token_s) for r in run.results)
    assert (summary["total_input_tokens"], summary["total_output_tokens"]) == (2000, tokens)
    assert summary["output_throughput"] == pytest.approx(tokens / run.duration_s)
    assert summary["total_token_throughput"] == pytest.approx((tokens + 2000) / run.duration_s)
    assert summary["request_throughput"] == pytest.approx(200 / run.duration_s)
    assert summary["request_goodput"] is None
    assert summary["p99_send_lateness_ms"] == pytest.approx(1.0) and summary["kept_offered_rate"]


def piece_times(sent_s: float, *token_s: float) -> RequestResult:
    return RequestResult(
        index=0, due_s=sent_s - 0.25, start_s=sent_s, sent_s=sent_s, finished_s=token_s[-1] + 0.5,
        token_s=np.array(token_s), prompt_tokens=1, output_tokens=len(token_s),
    )  # fmt: skip


def test_the_busiest_second_counts_pieces_and_all_that_ran_in_it():
    # Seconds from the first sending, at 10: the pieces come in the seconds 0, 1, 1 and 1, 2; and in 4.
    results = (piece_times(10.0, 10.9, 11.1, 11.2), piece_times(10.5, 11.9, 12.0), piece_times(13.0, 14.1))
    summary = summarize(LoadRun(results=results, duration_s=14.6))
    assert summary["max_output_tokens_per_s"] == 3.0
    assert summary["max_concurrent_requests"] == summary["peak_concurrent_requests"] == 2
    # One ends in the second in which the next begins: together in it, though never at once.
    chain = (piece_times(0.0, 1.2), piece_times(1.9, 1.95))
    summary = summarize(LoadRun(results=chain, duration_s=2.0))
    assert (summary["max_concurrent_requests"], summary["peak_concurrent_requests"]) == (2, 1)
    assert detailed(LoadRun(results=chain, duration_s=2.0))["queue_times"] == [0.25, 0.25]


def test_percentiles_are_named_in_full():
    names = summarize(synthetic_run(5), metrics=("ttft",), percentiles=(50.0, 99.9, 99.9999999))
    assert {"p50_ttft_ms", "p99.9_ttft_ms", "p99.9999999_ttft_ms"} <= set(names)


def test_goodput_counts_requests_that_keep_every_limit():
    run = synthetic_run()
    limits = {"ttft": 70.0, "e2el": 300.0}
    good = sum((r.token_s[0] - r.start_s) <= 0.07 and r.token_s[-1] - r.start_s <= 0.3 for r in run.results)
    assert 0 < good < 200
    assert summarize(run, goodput_ms=limits)["request_goodput"] == pytest.approx(good / run.duration_s)


def test_single_token_has_no_time_per_further_token():
    run = synthetic_run(1)
    one = RequestResult(index=0, due_s=0, start_s=0, sent_s=0, finished_s=1.0, token_s=np.array([0.5]), output_tokens=1)
    assert one.tpot_s is None and is_good(one, {"tpot": 1.0, "itl": 1.0}) and not is_good(one, {"ttft": 400.0})
    assert len(samples_ms([one], "tpot")) == len(samples_ms([one], "itl")) == len(samples_ms([one], "pause")) == 0
    assert run.results[0].normalized_s > 0


def test_run_without_a_completed_request_has_no_latencies():
    failed = RequestResult(index=0, due_s=0, start_s=0, sent_s=0, finished_s=1.0, error="timeout", detail="late")
    run = LoadRun(results=(failed,), duration_s=1.0)
    summary = summarize(run, goodput_ms={"ttft": 1.0})
    assert summary["completed"] == 0 and summary["error_counts"] == {"timeout": 1} and summary["request_goodput"] == 0.0
    assert all(summary[f"mean_{metric}_ms"] is None for metric in METRICS)
    assert "n/a" in text_report(summary, METRICS) and "1 x timeout: late" in text_report(summary, METRICS)
    assert (summary["max_output_tokens_per_s"], summary["max_concurrent_requests"]) == (0.0, 0)
    detail = detailed(run)
    assert detail["ttfts"] == detail["latencies"] == [None] and detail["errors"] == ["timeout"]


def test_report_shows_what_was_asked_for():
    summary = summarize(synthetic_run(), metrics=("ttft",), percentiles=(90,), goodput_ms={"ttft": 50.0})
    text = text_report(summary, ("ttft",))
    assert "p90 (ms)" in text and "goodput" in text and "Inter-token" not in text and "p99" not in text


def test_limits_are_read():
    assert parse_limits(["ttft:200,tpot:50", "e2el:1e4"]) == {"ttft": 200.0, "tpot": 50.0, "e2el": 10_000.0}
    for word in ("ttft", "ttft:", "ttft:-1", "speed:3", "", "ttft:nan"):
        with pytest.raises(InvalidArgumentError, match="a limit must be METRIC:MILLISECONDS"):
            parse_limits([word])
    with pytest.raises(InvalidArgumentError, match="a metric must be one of"):
        samples_ms([], "speed")


def test_requests_that_come_all_at_once_have_no_rate_to_keep():
    late = [
        RequestResult(index=i, due_s=0, start_s=0, sent_s=0.2, finished_s=1.0, token_s=np.array([0.5]), output_tokens=1)
        for i in range(3)
    ]
    assert summarize(LoadRun(results=tuple(late), duration_s=1.0))["kept_offered_rate"]
    late[-1] = replace(late[-1], due_s=0.1)
    assert not summarize(LoadRun(results=tuple(late), duration_s=1.0))["kept_offered_rate"]
