"""The scheduler as Python sees it: views, bytes, arguments, explain, statistics."""

import gc
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve._C.kv import MAX_BLOCKS, KvManager
from fastserve._C.sched import (
    FinishReason,
    LatencyModel,
    RequestOptions,
    Scheduler,
    SchedulerConfig,
    StepPlan,
    prefill_pairs,
)
from fastserve.errors import InvalidArgumentError
from tests import core_internals
from tests.plans import ARRAYS, check_plan, contents
from tests.unit.sched.fake_engine import EOS, FakeEngine, expected_output

PROMOTED_S = 0.3  # iterations that a promotion grants


def make(**config: object) -> Scheduler:
    return Scheduler(
        SchedulerConfig(**config), KvManager(block_size=4, num_device_blocks=64, num_host_blocks=8), LatencyModel()
    )


def filled_plan() -> StepPlan:
    scheduler = make(max_num_seqs=8, max_num_batched_tokens=64, max_prefill_chunk_tokens=16)
    scheduler.add(1, np.arange(5, dtype=np.int32), RequestOptions(min_tokens=3, eos_token_ids=[7, 8]), now_s=0.0)
    scheduler.add(2, np.arange(9, dtype=np.int32), now_s=0.0)
    return scheduler.schedule(0.0)


def test_plan_arrays_are_read_only_views_that_outlive_the_scheduler() -> None:
    plan = filled_plan()
    arrays = {name: getattr(plan, name) for name in ARRAYS}
    copies = {name: array.copy() for name, array in arrays.items()}
    del plan
    gc.collect()
    for name, array in arrays.items():
        assert not array.flags.writeable and not array.flags.owndata, name
        np.testing.assert_array_equal(array, copies[name])
    assert len(arrays) == 17
    assert arrays["request_ids"].dtype == np.int64 and arrays["transfer_to_host"].dtype == np.uint8
    assert arrays["request_slots"].dtype == np.int32 and arrays["block_ids"].dtype == np.int32


def test_rows_name_the_slots_that_add_returned_and_ended_ones_are_free_again() -> None:
    scheduler = make(max_num_seqs=8)
    slots = {i: scheduler.add(i, np.arange(5, dtype=np.int32), now_s=0.0) for i in (4, 5, 6)}
    plan = scheduler.schedule(0.0)
    assert [slots[i] for i in plan.request_ids.tolist()] == plan.request_slots.tolist()
    scheduler.abort(5, 0.0)
    scheduler.commit(plan.step, np.zeros(3, np.int32), 0.1, 0.1)
    assert scheduler.schedule(0.1).ended_slots.size == 0  # its last event was not taken
    scheduler.take_events()
    assert scheduler.schedule(0.1).ended_slots.tolist() == [slots[5]]
    assert scheduler.add(7, np.arange(5, dtype=np.int32), now_s=0.2) == slots[5]


def test_the_shape_of_a_plan_counts_decodes_and_prefill_chunks_apart() -> None:
    scheduler = make(max_num_seqs=8, max_num_batched_tokens=64, max_prefill_chunk_tokens=16)
    scheduler.add(1, np.arange(5, dtype=np.int32), now_s=0.0)
    scheduler.add(2, np.arange(20, dtype=np.int32), now_s=0.0)
    first = scheduler.schedule(0.0)
    assert first.shape == (21.0, prefill_pairs(5, 0) + prefill_pairs(16, 0), 0.0, 0.0)
    scheduler.commit(first.step, np.zeros(1, np.int32), 0.1, 0.1)
    second = scheduler.schedule(0.1)
    assert second.shape == (4.0, prefill_pairs(4, 16), 1.0, 6.0)


@pytest.mark.parametrize("bounds", [(0, 6), (0, 0), (0, 3), (2, 5), (5, 6)], ids=str)
def test_a_slice_of_a_plan_is_what_a_plan_of_its_rows_alone_would_be(bounds: tuple[int, int]) -> None:
    scheduler = make(max_num_seqs=8, max_num_batched_tokens=64, max_prefill_chunk_tokens=8)
    for request_id in range(3):
        options = RequestOptions(min_tokens=3, eos_token_ids=[7], max_tokens=9)
        scheduler.add(request_id, np.arange(3 + request_id, dtype=np.int32), options, now_s=0.0)
    first = scheduler.schedule(0.0)
    for request_id in range(3, 6):  # decodes of the first three, and prefills, two of them chunks without a sample
        scheduler.add(request_id, np.arange(4 * request_id - 7, dtype=np.int32), now_s=0.0)
    plan = scheduler.schedule(0.0)
    assert (first.num_rows, plan.num_rows, plan.num_decode_rows, plan.num_samples) == (3, 6, 3, 4)
    begin, end = bounds
    part = plan.slice(begin, end)
    assert (part.step, part.num_rows, part.num_decode_rows) == (plan.step, end - begin, max(0, 3 - begin) if end else 0)
    np.testing.assert_array_equal(part.request_ids, plan.request_ids[begin:end])
    check_plan(part)
    assert contents(part) == contents(plan.slice(begin, end))
    np.testing.assert_array_equal(part.request_slots, plan.request_slots[begin:end])
    for of_part, row in enumerate(range(begin, end)):
        for names, starts in ((("token_ids", "positions", "slots"), "query_start"), (("block_ids",), "block_start")):
            _compare(part, of_part, plan, row, names, starts)
    samples = np.flatnonzero((plan.sample_rows >= begin) & (plan.sample_rows < end))
    assert (part.sample_rows + begin).tolist() == plan.sample_rows[samples].tolist()
    np.testing.assert_array_equal(part.token_sources, plan.token_sources[begin:end])


def _compare(part: StepPlan, at: int, plan: StepPlan, whole_at: int, names: tuple[str, ...], starts: str) -> None:
    mine, theirs = getattr(part, starts), getattr(plan, starts)
    for name in names:
        np.testing.assert_array_equal(
            getattr(part, name)[mine[at] : mine[at + 1]], getattr(plan, name)[theirs[whole_at] : theirs[whole_at + 1]]
        )


@pytest.mark.parametrize("bounds", [(-1, 1), (0, 3), (2, 1)], ids=str)
def test_a_slice_beyond_the_plan_is_refused(bounds: tuple[int, int]) -> None:
    with pytest.raises(InvalidArgumentError, match="a slice must lie within the 2 rows"):
        filled_plan().slice(*bounds)


@pytest.mark.parametrize(
    ("option", "values"),
    {
        "max_tokens": [0, -1],
        "min_tokens": [-1],
        "oracle_output_tokens": [-1],
        "deadline_s": [np.nan],
        "ttft_slo_s": [np.nan],
        "tpot_slo_s": [np.nan],
    }.items(),
)
def test_options_out_of_range_are_refused(option: str, values: list[float]) -> None:
    scheduler = make()
    for value in values:
        with pytest.raises(InvalidArgumentError, match=f"^{option} must be .*, got "):
            scheduler.add(1, np.arange(5, dtype=np.int32), RequestOptions(**{option: value}), now_s=0.0)
    assert not scheduler.has_unfinished


@pytest.mark.parametrize("name", ["num_device_blocks", "num_host_blocks"])
def test_a_pool_beyond_the_bound_is_refused_with_it(name: str) -> None:
    sizes = {"num_device_blocks": 4, "num_host_blocks": 4} | {name: 2**31 - 1}
    with pytest.raises(
        InvalidArgumentError, match=f"{name} must be between [01] and {MAX_BLOCKS}, got 2147483647: ask"
    ):
        KvManager(**sizes)


def test_a_failed_request_ends_with_an_error_at_once_or_with_its_plan() -> None:
    scheduler = make()
    for request_id in (1, 2):
        scheduler.add(request_id, np.arange(5, dtype=np.int32), now_s=0.0)
    assert scheduler.fail(2, 0.0) and not scheduler.fail(2, 0.0) and not scheduler.fail(3, 0.0)
    assert scheduler.has_events
    ended = scheduler.take_events()
    assert (ended.request_ids.tolist(), ended.finish_reasons.tolist()) == ([2], [FinishReason.ERROR])
    plan = scheduler.schedule(0.0)
    assert scheduler.fail(1, 0.0) and not scheduler.has_events
    scheduler.commit(plan.step, np.array([5], np.int32), 0.1, 0.1)
    ended = scheduler.take_events()
    assert (ended.request_ids.tolist(), ended.finish_reasons.tolist()) == ([1], [FinishReason.ERROR])
    assert ended.token_ids.tolist() == [-1] and not scheduler.has_events
    scheduler.check_integrity()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_predictions_for_amounts_that_cannot_be_are_refused(bad: float) -> None:
    latency = LatencyModel()
    for predict in (
        lambda: latency.iteration_s(bad, 0, 0, 0),
        lambda: latency.prefill_s(1, bad),
        lambda: latency.decode_s(bad, 1),
        lambda: latency.observe(1, 1, 1, bad, 0.1),
        lambda: prefill_pairs(bad, 0),
    ):
        with pytest.raises(InvalidArgumentError, match="must be finite and not negative"):
            predict()


def test_the_levels_of_a_policy_have_its_quanta() -> None:
    quanta = make(policy="skip-join-mlfq", first_quantum_s=0.5, quantum_ratio=2.0, num_levels=4).level_quanta_s()
    assert quanta == [0.5, 1.0, 2.0, 4.0]
    assert make(policy="fcfs").level_quanta_s() == [float("inf")]
    assert make(policy="srpt").level_quanta_s() == []


def test_a_plan_is_not_reused_while_a_view_of_it_lives() -> None:
    scheduler = make()
    scheduler.add(1, np.arange(5, dtype=np.int32), RequestOptions(max_tokens=50), now_s=0.0)
    kept = []
    for step in range(20):
        plan = scheduler.schedule(float(step))
        kept.append((plan.positions, plan.positions.copy()))
        scheduler.commit(plan.step, np.array([3] * plan.num_samples, np.int32), 0.1, float(step))
        del plan
    for view, copy in kept:
        np.testing.assert_array_equal(view, copy)


@pytest.mark.parametrize(
    "bad", [{"policy": "lifo"}, {"max_num_seqs": 0}, {"preemption_mode": "drop"}, {"quantum_ratio": 1.0}, {"starvation_limit_s": 0.0}, {"max_pause_s": 0.0}, {"upload_margin": 1.1},
            {"ttft_slo_s": -1.0}, {"tpot_slo_s": np.nan},
            {"num_levels": 65}, {"max_model_len": 1}, {"length_half_life": 0.0}, {"min_length_observations": 0},
            {"policy": "learned", "first_quantum_s": np.inf}]
)  # fmt: skip
def test_configurations_out_of_range_are_refused(bad: dict) -> None:
    with pytest.raises(InvalidArgumentError):
        make(**bad)


def test_wrong_calls_change_nothing() -> None:
    scheduler = make()
    scheduler.add(1, np.arange(5, dtype=np.int32), now_s=0.0)
    plan = scheduler.schedule(0.0)
    with pytest.raises(InvalidArgumentError, match="samples 1 tokens"):
        scheduler.commit(plan.step, np.empty(0, np.int32), 0.1, 0.1)
    with pytest.raises(InvalidArgumentError, match="committed in order"):
        scheduler.commit(plan.step + 1, np.empty(0, np.int32), 0.1, 0.1)
    with pytest.raises(InvalidArgumentError, match="not in flight"):
        scheduler.complete_transfers(np.array([5]), np.array([1], np.uint8), 0.1)
    with pytest.raises(InvalidArgumentError, match="finite"):
        scheduler.schedule(float("nan"))
    with pytest.raises(InvalidArgumentError, match="in use"):
        scheduler.add(1, np.arange(5, dtype=np.int32), now_s=0.0)
    scheduler.check_integrity()
    scheduler.commit(plan.step, np.array([1], np.int32), 0.1, 0.1)
    with pytest.raises(InvalidArgumentError, match="no plan is in flight"):
        scheduler.commit(plan.step, np.array([1], np.int32), 0.1, 0.1)


def test_explain_says_where_a_request_stands_and_why() -> None:
    scheduler = make(policy="skip-join-mlfq", max_num_seqs=1)
    scheduler.add(1, np.arange(5, dtype=np.int32), RequestOptions(max_tokens=50), now_s=0.0)
    scheduler.add(2, np.arange(6, dtype=np.int32), RequestOptions(priority=3), now_s=0.0)
    scheduler.schedule(1.0)
    running, waiting = scheduler.explain(1, 2.0), scheduler.explain(2, 2.0)
    assert (running["state"], running["kv"], running["waited_s"]) == ("running", "device", 0.0)
    assert (waiting["state"], waiting["kv"], waiting["requests_ahead"]) == ("waiting", "none", 1)
    assert waiting["waited_s"] == 2.0 and waiting["priority"] == 3
    assert [name for _, name in running["decisions"]] == ["joined", "started"]
    assert 0.0 < waiting["enst_s"] <= 1.0  # it starves after 3 s
    with pytest.raises(InvalidArgumentError, match="unknown"):
        scheduler.explain(3, 2.0)


def test_a_finished_request_is_known_until_its_end_was_taken_and_a_step_went_by() -> None:
    scheduler = make()
    scheduler.add(1, np.arange(5, dtype=np.int32), now_s=0.0)
    scheduler.abort(1, 2.0)
    events = scheduler.take_events()
    assert events.request_ids.tolist() == [1] and events.finish_reasons.tolist() == [FinishReason.ABORT]
    assert scheduler.request_stats(1, 3.0).queue_s == 2.0
    assert scheduler.explain(1, 3.0)["finish_reason"] == "abort"
    scheduler.add(1, np.arange(3, dtype=np.int32), now_s=3.0)  # the id is free again
    assert scheduler.request_stats(1, 4.0).queue_s == 1.0
    scheduler.abort(1, 5.0)
    scheduler.take_events()
    scheduler.schedule(5.0)
    with pytest.raises(InvalidArgumentError):
        scheduler.request_stats(1, 5.0)


def test_min_tokens_and_stop_tokens_decide_the_end() -> None:
    prompt = next([a, b] for a in range(40) for b in range(40) if 1 < len(expected_output([a, b], 60)) < 20)
    stop_at = len(expected_output(prompt, 60))
    engine = FakeEngine(num_device_blocks=60, num_host_blocks=0, max_model_len=64, prefix_caching=False)
    engine.add(1, prompt, 40)
    engine.add(2, prompt, 40, min_tokens=stop_at)
    engine.add(3, prompt, 40, ignore_eos=True)
    engine.drain(max_turns=200)
    assert engine.clients[1].output[-1] == EOS and engine.clients[1].reason == FinishReason.STOP
    assert len(engine.clients[2].output) > stop_at
    assert len(engine.clients[3].output) == 40 and engine.clients[3].reason == FinishReason.LENGTH


def test_learned_tells_what_it_knows_of_a_class_and_of_a_request() -> None:
    engine = FakeEngine(num_device_blocks=60, num_host_blocks=0, max_model_len=64, policy="learned")
    for request_id in range(6):
        engine.add(request_id, [request_id], 4, ignore_eos=True, length_class=9)
    assert engine.scheduler.length_classes() == [
        {"length_class": 9, "num_observations": 0, "num_live": 6, "learned": False, "quantiles": {}, "levels": []}
    ]
    engine.drain(max_turns=50)
    engine.add(6, [1], 4, length_class=9)
    view = engine.scheduler.explain(6, engine.now_s)
    assert view["length_class"] == 9 and view["index_s"] > 0.0
    (known,) = engine.scheduler.length_classes()
    assert known["learned"] and known["num_observations"] == 6 and known["num_live"] == 1
    assert known["quantiles"][0.5] == pytest.approx(4.0, abs=1.0)
    assert known["levels"][0]["tokens"] == 0
    levels = [step["level"] for step in known["levels"]]
    assert levels == sorted(set(levels))
    assert make(policy="skip-join-mlfq").length_classes() == []


def test_a_shared_prefix_is_computed_once() -> None:
    engine = FakeEngine(num_device_blocks=60, num_host_blocks=0, max_model_len=64)
    prompt = list(range(20))
    engine.add(1, prompt, 1)
    engine.drain(max_turns=20)
    engine.add(2, [*prompt, 1], 1)
    plan = engine.turn()
    assert plan.num_tokens == 1 and plan.seq_lens.tolist() == [21]
    engine.add(3, [*prompt, 2], 1, cache_salt=9)
    assert engine.turn().num_tokens == 21


@pytest.mark.parametrize("policy", ["skip-join-mlfq", "learned"])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), depth=st.sampled_from((1, 2)), host=st.sampled_from((0, 30)))
def test_no_request_waits_longer_than_the_limit_and_the_service_of_those_before(
    seed: int, depth: int, host: int, policy: str
) -> None:
    alpha_s, iteration_s, slots = 0.5, 0.01, 2
    engine = FakeEngine(policy=policy, num_device_blocks=12, num_host_blocks=host, depth=depth, max_num_seqs=slots, starvation_limit_s=alpha_s,
                        max_pause_s=alpha_s, max_model_len=40, thrash_parks_per_finish=1e9, prefix_caching=False)  # fmt: skip
    rng = random.Random(seed)
    engine.end_transfers = 1.0
    longest_s, most = 0.0, 0
    for request_id in range(120):
        if len(engine.live()) < 14:
            engine.add(request_id, [rng.randrange(40) for _ in range(rng.randrange(1, 20))], rng.randrange(1, 16))
        engine.turn(iteration_s)
        most = max(most, len(engine.live()))
        for live in engine.live():
            longest_s = max(longest_s, engine.scheduler.explain(live, engine.now_s)["waited_s"])
    # Each of those before may take what a promotion grants, one iteration to be taken out and one for its copies to end.
    assert longest_s <= alpha_s + most * (PROMOTED_S + (3 + depth) * iteration_s)
    engine.drain(max_turns=20_000)


def test_the_latency_model_takes_and_gives_coefficients() -> None:
    model = LatencyModel(coefficients=[1e-3, 1e-5, 0.0, 1e-4, 0.0])
    assert model.coefficients() == [1e-3, 1e-5, 0.0, 1e-4, 0.0]
    assert model.prefill_s(100, 10) == pytest.approx(2e-3)
    assert model.decode_s(5, 100) == pytest.approx(1.5e-3)
    assert model.iteration_s(100, prefill_pairs(100, 10), 5, 100) == pytest.approx(2.5e-3)
    samples = np.array(
        [[n, prefill_pairs(n, 0), d, 50 * d, 2e-3 + 3e-5 * n + 1e-4 * d] for n in (0, 10, 90) for d in (0, 4, 9)]
    )
    fitted = LatencyModel()
    fitted.fit(samples)
    assert fitted.iteration_s(50, prefill_pairs(50, 0), 7, 350) == pytest.approx(2e-3 + 15e-4 + 7e-4, rel=1e-3)
    for bad in ([-1.0, 0, 0, 0, 0], [0.0, 1.0, 0, 0, 0], [float("nan")] * 5):
        with pytest.raises(InvalidArgumentError):
            LatencyModel(bad)
    with pytest.raises(InvalidArgumentError, match=r"float64 \[num_samples, 5\]"):
        fitted.fit(np.zeros((3, 4)))


def test_the_governor_stops_preemption_that_costs_too_much() -> None:
    def parks(limit: float) -> tuple[int, int]:
        engine = FakeEngine(policy="skip-join-mlfq", num_device_blocks=10, num_host_blocks=60, max_num_seqs=4, max_model_len=200,
                            check=False, thrash_parks_per_finish=limit, prefix_caching=False)  # fmt: skip
        rng = random.Random(3)
        for request_id in range(2000):
            if len(engine.live()) < 12:
                prompt = [rng.randrange(40) for _ in range(4)]
                engine.add(request_id, prompt, rng.randrange(8, 25), ignore_eos=True)
            engine.turn()
        stats = engine.scheduler.stats()
        return stats.parks, stats.thrash_governor_trips

    free_parks, free_trips = parks(1e9)
    few_parks, trips = parks(0.5)
    assert free_trips == 0 and trips >= 1
    assert few_parks < 0.9 * free_parks  # the rest is growth, which must get its blocks


@pytest.mark.parametrize("policy", ["learned", "mlfq", "skip-join-mlfq"])
def test_all_end_though_every_request_is_parked_after_every_iteration_and_the_host_is_too_small(policy: str) -> None:
    # Those at the front start again each time, for others hold the host. The governor must not keep the order as it is.
    engine = FakeEngine(policy=policy, block_size=16, num_device_blocks=16, num_host_blocks=6, max_num_seqs=8, prefix_caching=False,
                        max_prefill_chunk_tokens=32, max_model_len=256, starvation_limit_s=0.2, check=False)  # fmt: skip
    engine.end_transfers = 1.0
    rng = random.Random(3)
    for request_id in range(10):
        prompt = [rng.randrange(40) for _ in range(rng.randrange(3, 70))]
        engine.add(request_id, prompt, 24, ignore_eos=True)
    turns = 0
    while engine.live() and turns < 3000:
        for request_id in engine.live():
            core_internals.park(engine.scheduler, request_id, False, engine.now_s)
        engine.turn(0.001)
        turns += 1
    stats = engine.scheduler.stats()
    assert stats.recomputes_host_full > 100
    assert stats.thrash_governor_trips == 0
    engine.drain(max_turns=1)


@pytest.mark.parametrize(("host_blocks", "offloads"), [(1, False), (8, True)])
def test_what_moves_ahead_of_need_is_never_dropped(host_blocks: int, offloads: bool) -> None:
    engine = FakeEngine(policy="priority", num_device_blocks=16, num_host_blocks=host_blocks, max_num_seqs=2,
                        reserve_iterations=100, write_through=False)  # fmt: skip
    engine.add(1, [1] * 9, 30, ignore_eos=True, priority=1)
    engine.turn()
    for request_id in (2, 3):  # they take both slots; 1 stays on the device until memory is wanted
        engine.add(request_id, [request_id] * 5, 20, ignore_eos=True)
    for _ in range(4):
        engine.turn()
    stats = engine.scheduler.stats()
    assert stats.preemptions == 1 and stats.recomputes == 0
    assert (stats.swaps == 1) == offloads
    engine.drain(max_turns=500)


def test_kv_is_dropped_for_others_only_as_far_as_the_budget_goes() -> None:
    engine = FakeEngine(num_device_blocks=20, num_host_blocks=0, max_num_seqs=4, max_model_len=80, check=False,
                        prefix_caching=False, reserve_iterations=1)  # fmt: skip
    rng = random.Random(5)
    for request_id in range(1500):
        if len(engine.live()) < 16:
            engine.add(request_id, [rng.randrange(40) for _ in range(16)], rng.randrange(1, 8), ignore_eos=True)
        engine.turn()
    stats = engine.scheduler.stats()
    assert stats.recomputes_no_host > 0
    assert stats.dropped_s <= 0.2 * engine.now_s  # a tenth, and what growth took


def test_a_shorter_request_goes_first_under_srpt_and_a_more_urgent_one_under_priority() -> None:
    for policy, options in (("srpt", {"oracle_output_tokens": 1}), ("priority", {"priority": -1})):
        scheduler = make(policy=policy, max_num_seqs=1)
        scheduler.add(1, np.arange(5, dtype=np.int32), RequestOptions(oracle_output_tokens=100), now_s=0.0)
        plan = scheduler.schedule(0.0)
        scheduler.commit(plan.step, np.array([1], np.int32), 0.01, 0.01)
        scheduler.add(2, np.arange(5, dtype=np.int32) + 50, RequestOptions(**options), now_s=0.01)
        assert scheduler.schedule(0.02).request_ids.tolist() == [2], policy


def test_a_stop_string_ends_a_request_as_a_stop_whose_length_is_learned() -> None:
    scheduler = make(policy="learned", max_num_seqs=4)
    for request_id in range(3):
        scheduler.add(request_id, np.arange(4, dtype=np.int32), RequestOptions(max_tokens=40), now_s=0.0)
    for _ in range(12):
        plan = scheduler.schedule(0.0)
        scheduler.commit(plan.step, np.ones(plan.num_samples, np.int32), 0.01, 0.0)
    scheduler.take_events()
    assert scheduler.stop(0, 10, 0.0)
    in_flight = scheduler.schedule(0.0)
    assert scheduler.stop(1, 10, 0.0)
    scheduler.commit(in_flight.step, np.ones(in_flight.num_samples, np.int32), 0.01, 0.0)
    events = scheduler.take_events()
    ends = {i: FinishReason(r) for i, r in zip(events.request_ids, events.finish_reasons, strict=True) if r}
    assert ends == {0: FinishReason.STOP, 1: FinishReason.STOP}
    assert not scheduler.stop(0, 10, 0.0)
    assert not scheduler.stop(77, 1, 0.0)
    for bad in (0, 14, -1):
        with pytest.raises(InvalidArgumentError, match="a stop string must end within the 13 outputs"):
            scheduler.stop(2, bad, 0.0)
    (known,) = scheduler.length_classes()
    assert known["num_observations"] == 2
    scheduler.check_integrity()
