"""A workload through the real scheduler on a virtual clock."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.sim import FittedCost, Timeline, simulate
from fastserve.sim.gaps import TokenGaps
from tests.unit.sim.small import COEFFICIENTS, deployment, scheduler, workload


def one_request(prompt: int, output: int, **columns: object):
    return workload(
        1,
        arrival_s=np.array([2.5]),
        prompt_tokens=np.array([prompt]),
        output_tokens=np.array([output]),
        **columns,
    )


def test_a_lone_request_takes_the_sum_of_its_iterations():
    table = simulate(one_request(40, 3), deployment(), scheduler()).requests
    base, per_token, per_pair, per_decode, per_ctx = COEFFICIENTS
    prefill_s = base + per_token * 40 + per_pair * 40 * 41 / 2
    decodes_s = sum(base + per_decode + per_ctx * context for context in (41, 42))
    assert table.ttft_s[0] == pytest.approx(prefill_s)
    assert table.e2e_s[0] == pytest.approx(prefill_s + decodes_s)
    assert table.tpot_s[0] == pytest.approx(decodes_s / 2)
    assert table.normalized_latency_s[0] == pytest.approx((prefill_s + decodes_s) / 3)
    assert table.queue_s[0] == 0.0


@pytest.mark.parametrize("policy", ["fcfs", "mlfq", "skip-join-mlfq", "learned", "priority", "srpt"])
def test_every_request_ends_once_with_all_its_tokens(policy):
    load = workload(rate=1000.0)
    result = simulate(load, deployment(), scheduler(policy))
    table, summary = result.requests, result.summary
    assert table.is_finished.all()
    assert (table.output_tokens == load.output_tokens).all()
    assert (table.first_token_s > table.arrival_s).all()
    assert (table.finish_s >= table.first_token_s).all()
    running_s = table.e2e_s - table.queue_s - table.parked_s - table.host_s - table.upload_wait_s
    assert (running_s > 0).all()
    assert summary.run_s == pytest.approx(running_s.mean())
    assert summary.iterations >= load.output_tokens.sum() / 8
    assert summary.output_tokens_per_s == pytest.approx(load.output_tokens.sum() / summary.duration_s)


def test_memory_pressure_moves_kv_over_the_link_and_costs_time():
    load = workload(rate=1000.0)
    tight = simulate(load, deployment(num_device_blocks=40), scheduler()).summary
    roomy = simulate(load, deployment(num_device_blocks=4000), scheduler()).summary
    assert tight.swaps > 0
    assert tight.upload_blocks > 0
    assert roomy.swaps == 0
    assert tight.e2e_s.mean > roomy.e2e_s.mean


def test_a_request_that_cannot_run_is_refused_and_the_others_run():
    load = workload(5, prompt_tokens=np.array([10, 600, 511, 10, 10]), output_tokens=np.full(5, 20))
    result = simulate(load, deployment(), scheduler())
    assert result.requests.is_finished.tolist() == [True, False, True, True, True]
    assert result.requests.output_tokens.tolist() == [20, 0, 1, 20, 20], "512 tokens is the longest sequence"
    assert result.summary.num_refused == 1


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    files = []
    for name in ("a", "b"):
        with Timeline(tmp_path / f"{name}.json") as timeline:
            result = simulate(workload(rate=1000.0), deployment(), scheduler(), timeline=timeline)
        result.requests.write_csv(tmp_path / f"{name}.csv")
        files.append(
            (json.dumps(result.to_dict()), *((tmp_path / f"{name}.{end}").read_bytes() for end in ("csv", "json")))
        )
    assert files[0] == files[1]


def test_hidden_lengths_change_no_output_length():
    load = workload(rate=1000.0)
    table = simulate(load, deployment(), scheduler(), endings="stop-token").requests
    assert table.is_finished.all()
    known = simulate(load, deployment(), scheduler(), endings="known").requests
    assert table.finish_s.max() == pytest.approx(known.finish_s.max(), rel=0.2)


def test_hidden_lengths_go_with_prefix_caching():
    """The row that is planned before the end of its request is known may lie behind the last output of all."""
    load = workload(
        2,
        arrival_s=np.zeros(2),
        prompt_tokens=np.array([40, 40]),
        output_tokens=np.array([30, 5]),
    )
    result = simulate(load, deployment(), scheduler(), endings="stop-token", enable_prefix_caching=True)
    known = simulate(load, deployment(), scheduler(), endings="known", enable_prefix_caching=True)
    assert result.requests.is_finished.all()
    assert result.requests.finish_s[0] == pytest.approx(known.requests.finish_s[0], rel=0.05)


@pytest.mark.parametrize(("share", "iterations"), [(0.5, 1.5), (0.9, 2.1)])
def test_a_request_joins_the_next_iteration_when_it_comes_before_that_is_planned(share, iterations):
    flat = replace(deployment(), cost=FittedCost((0.01, 0.0, 0.0, 0.0, 0.0)))  # every iteration takes 10 ms
    load = workload(
        2,
        arrival_s=np.array([0.0, 0.01 * (4 + share)]),
        prompt_tokens=np.array([8, 8]),
        output_tokens=np.array([20, 1]),
    )
    assert simulate(load, flat, scheduler()).requests.ttft_s[1] == pytest.approx(0.01 * iterations)


def test_srpt_serves_the_short_before_the_long():
    load = workload(40, arrival_s=np.zeros(40), prompt_tokens=np.full(40, 10))
    shortest = simulate(load, deployment(), scheduler("srpt", max_num_seqs=2)).requests
    arrival = simulate(load, deployment(), scheduler("fcfs", max_num_seqs=2)).requests
    assert shortest.e2e_s.mean() < 0.8 * arrival.e2e_s.mean()


def test_later_turns_find_the_prefix_of_the_turn_before():
    turns = {"prompt_tokens": np.array([64, 200, 300]), "output_tokens": np.array([40, 40, 40])}
    load = workload(3, arrival_s=np.array([0.0, 10.0, 20.0]), conversation=np.zeros(3, np.int64), **turns)
    table = simulate(load, deployment(), scheduler()).requests
    assert table.cached_tokens.tolist() == [0, 96, 224], "whole blocks of what was computed before"
    cold = simulate(load, deployment(), scheduler(), enable_prefix_caching=False).requests
    assert cold.cached_tokens.tolist() == [0, 0, 0]
    assert table.ttft_s[2] < cold.ttft_s[2]


def test_progress_ends_at_all_requests():
    calls = []
    simulate(workload(20), deployment(), scheduler(), progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (20, 20)


def test_a_bad_configuration_is_refused():
    with pytest.raises(InvalidArgumentError, match="policy"):
        simulate(workload(1), deployment(), scheduler("longest-first"))


def test_the_timeline_holds_every_iteration_and_copy(tmp_path):
    with Timeline(tmp_path / "t.json") as timeline:
        result = simulate(workload(rate=1000.0), deployment(num_device_blocks=40), scheduler(), timeline=timeline)
    events = json.loads((tmp_path / "t.json").read_text())
    spans = [event for event in events if event["ph"] == "X"]
    iterations = [event for event in spans if event["tid"] == 1]
    assert len(iterations) == result.summary.iterations
    ends = [event["ts"] + event["dur"] for event in iterations]
    starts = [event["ts"] for event in iterations]
    assert all(start >= end - 1e-3 for start, end in zip(starts[1:], ends, strict=False)), "iterations do not overlap"
    uploaded = sum(event["args"]["bytes"] for event in spans if event["tid"] == 3)
    assert uploaded == result.summary.upload_blocks << 16
    assert any(event["ph"] == "C" for event in events)


def test_gaps_and_the_longest_pause_are_those_of_the_iterations():
    flat = replace(deployment(), cost=FittedCost((0.01, 0.0, 0.0, 0.0, 0.0)))  # every iteration takes 10 ms
    result = simulate(one_request(8, 5), flat, scheduler())
    assert result.requests.longest_pause_s[0] == pytest.approx(0.01)
    gap = result.summary.gap_s
    assert (gap.mean, gap.max) == pytest.approx((0.01, 0.01))
    assert gap.p50 == pytest.approx(0.01, rel=0.02)
    single = simulate(one_request(8, 1), flat, scheduler())
    assert np.isnan(single.requests.longest_pause_s[0])
    assert np.isnan(single.summary.gap_s.mean)


def test_a_preempted_stream_pauses_and_one_that_is_not_does_not():
    load = workload(40, arrival_s=np.zeros(40), prompt_tokens=np.full(40, 8), output_tokens=np.full(40, 60))
    flat = replace(deployment(num_device_blocks=4000), cost=FittedCost((0.01, 0.0, 0.0, 0.0, 0.0)))
    sliced, fcfs = (simulate(load, flat, scheduler(policy)) for policy in ("skip-join-mlfq", "fcfs"))
    assert fcfs.summary.longest_pause_s.max == pytest.approx(0.01)
    assert sliced.summary.longest_pause_s.p50 > 0.02
    assert sliced.summary.gap_s.max == pytest.approx(sliced.summary.longest_pause_s.max)


def test_percentiles_of_gaps_are_true_to_their_bins():
    longest_s = np.full(1, np.nan)
    gaps, now_s = TokenGaps(longest_s), 0.0
    gaps.add(np.array([0]), now_s)
    seconds = np.random.default_rng(0).lognormal(-4.0, 1.0, 2000)
    for gap_s in seconds:
        now_s += gap_s
        gaps.add(np.array([0]), now_s)
    found = gaps.distribution()
    assert (found.p50, found.p95, found.p99) == pytest.approx(np.percentile(seconds, (50, 95, 99)), rel=0.03)
    assert (found.mean, found.max) == pytest.approx((seconds.mean(), seconds.max()))
    assert longest_s[0] == pytest.approx(seconds.max())


def test_goodput_counts_the_requests_that_kept_every_objective():
    limits = {"ttft_s": 0.05, "tpot_s": 0.02, "longest_pause_s": 0.05}
    result = simulate(workload(rate=50.0), deployment(), scheduler("fcfs"), objectives_s=limits)
    table = result.requests
    good = np.ones(len(table), bool)
    for name, limit_s in limits.items():
        values = getattr(table, name)
        good &= np.isnan(values) | (values <= limit_s)
    assert 0 < good.sum() < len(table)
    assert result.summary.goodput_per_s == pytest.approx(good.sum() / result.summary.duration_s)
    assert simulate(workload(), deployment(), scheduler("fcfs")).summary.goodput_per_s is None


@pytest.mark.parametrize("endings", ["known", "max-tokens", "stop-token", "stop-string"])
def test_learned_learns_whatever_ends_the_requests(endings):
    load = workload(200, rate=1000.0)
    result = simulate(load, deployment(), scheduler("learned"), endings=endings)
    assert result.requests.is_finished.all()
    (found,) = result.length_classes
    assert found.num_observations == 200
    if endings != "max-tokens":  # there the limits are lower bounds
        assert dict(found.quantiles)[0.5] == pytest.approx(np.median(load.output_tokens[-128:]), rel=0.3)


@pytest.mark.parametrize("endings", ["known", "max-tokens", "stop-token", "stop-string"])
def test_learned_beats_arrival_order_whatever_ends_the_requests(endings):
    load = workload(
        400, rate=1000.0, output_tokens=np.where(np.arange(400) % 4, 4, 200), prompt_tokens=np.full(400, 16)
    )
    roomy = deployment(num_device_blocks=4000)
    order_alone = {"starvation_limit_s": 1e6, "max_pause_s": 1e6}
    learned, fcfs = (
        simulate(load, roomy, scheduler(policy, **order_alone), endings=endings) for policy in ("learned", "fcfs")
    )
    assert learned.summary.normalized_latency_s.mean < 0.7 * fcfs.summary.normalized_latency_s.mean


def test_equal_requests_wait_no_longer_than_in_arrival_order():
    """Until the first end nothing is known, and slicing time among equals would put that end off."""
    load = workload(120, rate=60.0, prompt_tokens=np.full(120, 40), output_tokens=np.full(120, 60))
    roomy = deployment(num_device_blocks=4000)
    learned, fcfs = (simulate(load, roomy, scheduler(policy), endings="stop-token") for policy in ("learned", "fcfs"))
    assert learned.summary.e2e_s.mean <= 1.02 * fcfs.summary.e2e_s.mean
    assert learned.summary.ttft_s.p99 <= 1.1 * fcfs.summary.ttft_s.p99


def test_slo_keeps_the_objectives_of_more_requests_past_saturation():
    """Streams that are ahead of their pace give way, so that more of them share the slots."""
    load = workload(400, rate=32.0, prompt_tokens=np.full(400, 16), output_tokens=np.full(400, 60))
    roomy = deployment(num_device_blocks=4000)
    objectives = {"ttft_slo_s": 0.5, "tpot_slo_s": 0.04}
    limits = {"ttft_s": 0.5, "tpot_s": 0.04}
    share = {
        policy: simulate(
            load, roomy, scheduler(policy, **fields), endings="stop-token", objectives_s=limits
        ).summary.goodput_share
        for policy, fields in (("fcfs", {}), ("learned", {}), ("slo", objectives))
    }
    assert share["slo"] >= 1.3 * max(share["fcfs"], share["learned"])


@pytest.mark.parametrize("num_device_blocks", [600, 4000])
def test_learned_does_not_fall_behind_arrival_order_where_everyone_is_due(num_device_blocks):
    """Prefills are scarce, so promoting every request that waited would start them all in order of arrival."""
    rng = np.random.default_rng(3)
    load = workload(300, rate=400.0, prompt_tokens=rng.integers(20, 480, 300), output_tokens=rng.integers(2, 30, 300))
    pool = deployment(num_device_blocks=num_device_blocks)
    quick = {"starvation_limit_s": 0.1, "max_num_seqs": 64}
    learned, fcfs = (
        simulate(load, pool, scheduler(policy, **quick), endings="stop-token") for policy in ("learned", "fcfs")
    )
    assert learned.summary.normalized_latency_s.mean < 0.8 * fcfs.summary.normalized_latency_s.mean
    assert learned.summary.e2e_s.mean < 0.85 * fcfs.summary.e2e_s.mean
