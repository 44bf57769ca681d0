"""The load generator: open loop, honest clocks, every failure counted by its kind."""

from dataclasses import replace

import numpy as np
import pytest

from fastserve.bench.client import Target
from fastserve.bench.load import LoadOptions, LoadRun, run_load
from fastserve.bench.metrics import summarize
from fastserve.bench.report import lateness_warning, text_report
from fastserve.errors import InvalidArgumentError
from fastserve.workload import Workload
from tests.unit.bench import fake_openai
from tests.unit.bench.fake_openai import FakeServer


def workload(first_ids: list[int], *, tokens: int = 5, gap_s: float = 0.0, **changes: object) -> Workload:
    """Requests whose prompts begin with these ids."""
    n = len(first_ids)
    prompts = tuple(np.array([first, 7, 8], np.int32) for first in first_ids)
    made = Workload("t", np.arange(n) * gap_s, np.full(n, 3), np.full(n, tokens), np.zeros(n, int), np.full(n, -1))
    return replace(made, **{"prompts": prompts} | changes)


def run(fake: FakeServer, load: Workload, **options: object) -> LoadRun:
    return run_load(Target(base_url=fake.url, model="fake", timeout_s=20.0), load, LoadOptions(**options))


def test_requests_are_sent_at_their_times_and_timed():
    with fake_openai.fake_openai(token_s=0.02) as fake:
        result = run(fake, workload([1] * 5, gap_s=0.05), ignore_eos=True)
    assert not any(r.error for r in result.results)
    assert [r.index for r in result.results] == list(range(5))
    for i, r in enumerate(result.results):
        assert r.due_s == r.start_s == pytest.approx(i * 0.05)
        assert r.due_s <= r.sent_s < r.token_s[0] <= r.token_s[-1] <= r.finished_s
        assert (r.prompt_tokens, r.output_tokens, len(r.token_s)) == (3, 5, 5)
        assert r.engine == {"preemptions": 2}
        assert r.ttft_s >= 0.02 and r.e2el_s >= 0.1 and r.tpot_s > 0.015
    assert result.duration_s == max(r.finished_s for r in result.results)
    body = fake.bodies[0]
    assert body["stream"] is True and body["ignore_eos"] is True and body["temperature"] == 0.0
    assert body["model"] == "fake" and body["prompt"] == [1, 7, 8] and "priority" not in body


def test_failures_are_counted_by_kind_and_none_is_lost():
    kinds = [fake_openai.REFUSE, fake_openai.CUT, fake_openai.ERROR_EVENT, fake_openai.MALFORMED, fake_openai.EMPTY]
    with fake_openai.fake_openai() as fake:
        result = run(fake, workload([1, *kinds, fake_openai.REFUSE, fake_openai.NO_USAGE]))
    summary = summarize(result)
    assert summary["completed"] == 2 and summary["failed"] == 6
    assert summary["error_counts"] == {
        "HTTP 429": 2,
        "cut off": 1,
        "error event": 1,
        "malformed event": 1,
        "no tokens": 1,
    }
    assert "too many" in summary["error_samples"]["HTTP 429"]
    assert "the engine has stopped" in summary["error_samples"]["error event"]
    assert result.results[-1].output_tokens == 5  # counted, where the server does not say
    assert "2 x HTTP 429" in text_report(summary, ("ttft",))


def test_server_that_is_not_there_and_one_that_is_too_slow():
    gone = run_load(Target(base_url="http://127.0.0.1:9", model="m"), workload([1, 1]), LoadOptions())
    assert summarize(gone)["error_counts"] == {"ClientConnectorError": 2}
    with fake_openai.fake_openai(token_s=5.0) as fake:
        target = Target(base_url=fake.url, model="m", timeout_s=0.1)
        assert summarize(run_load(target, workload([1]), LoadOptions()))["error_counts"] == {"timeout": 1}


def test_open_loop_does_not_wait_for_a_slow_server():
    with fake_openai.fake_openai(token_s=0.05, slots=1) as fake:
        result = run(fake, workload([1] * 4, tokens=2, gap_s=0.01))
    summary = summarize(result)
    assert summary["kept_offered_rate"] and lateness_warning(result, summary) == ""
    assert summary["peak_concurrent_requests"] == 4
    assert result.results[-1].e2el_s > 0.3  # its time in the server's queue counts


def test_concurrency_limit_is_kept_and_said_to_miss_the_rate():
    with fake_openai.fake_openai(token_s=0.03) as fake:
        result = run(fake, workload([1] * 8, tokens=4, gap_s=0.001), max_concurrency=2)
    summary = summarize(result)
    assert fake.most_running == summary["peak_concurrent_requests"] == 2
    assert not summary["kept_offered_rate"]
    warning = lateness_warning(result, summary)
    assert "could not keep the offered rate" in warning and "concurrency limit" in warning
    last = result.results[-1]
    assert last.start_s > last.due_s + 0.1 and last.e2el_s < 0.3  # latency counts from the free slot on


def test_client_that_is_too_slow_is_said_to_be():
    with fake_openai.fake_openai() as fake:
        result = run(fake, workload([1] * 20, gap_s=0.001))
    late = tuple(replace(r, sent_s=r.sent_s + 0.5) for r in result.results)
    slow = LoadRun(results=late, duration_s=result.duration_s)
    assert "client was too slow" in lateness_warning(slow, summarize(slow))


def test_later_turn_waits_for_the_turn_before():
    talk = {"conversation": np.array([4, 4, -1]), "prompts": None, "prompt_tokens": np.array([3, 20, 3])}
    with fake_openai.fake_openai(token_s=0.03) as fake:
        result = run(fake, workload([1, 1, 1], tokens=5, **talk), vocab_size=500)
    first, second, alone = result.results
    assert second.sent_s >= first.finished_s - 1e-3 and second.start_s == pytest.approx(second.sent_s, abs=0.01)
    assert alone.sent_s < first.finished_s
    asked = {len(body["prompt"]): body["prompt"] for body in fake.bodies}
    assert asked[20][:3] in [body["prompt"] for body in fake.bodies if len(body["prompt"]) == 3]


def test_priority_key_and_extra_fields_are_sent():
    with fake_openai.fake_openai() as fake:
        target = Target(base_url=fake.url, model="fake", api_key="secret")
        options = LoadOptions(extra_body={"top_p": 0.5}, temperature=0.7)
        run_load(target, workload([1], priority=np.array([3])), options)
    assert fake.keys == {"Bearer secret"}
    assert fake.bodies[0]["priority"] == 3 and fake.bodies[0]["top_p"] == 0.5 and fake.bodies[0]["temperature"] == 0.7


def test_recorded_prompts_are_sent_whatever_the_vocabulary():
    with fake_openai.fake_openai() as fake:
        run(fake, workload([31_999]), vocab_size=10)
    assert fake.bodies[0]["prompt"] == [31_999, 7, 8]


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(InvalidArgumentError, match="max_concurrency must be at least 1, got 0"):
        LoadOptions(max_concurrency=0)
    with pytest.raises(InvalidArgumentError, match="vocab_size must be at least 1"):
        LoadOptions(vocab_size=0)
