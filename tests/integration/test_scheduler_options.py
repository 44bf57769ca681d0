"""Each option of the scheduler changes what a real engine does with its requests."""

import math
import time
from collections.abc import Callable

import pytest

from fastserve.engine.core import EngineCore
from fastserve.errors import InvalidArgumentError
from fastserve.types import SamplingParams
from tests import core_internals
from tests.integration.engine_driver import Driver, engine_config

ONE_TOKEN = SamplingParams(temperature=0.0, max_tokens=1)
LONG = SamplingParams(temperature=0.0, max_tokens=150, ignore_eos=True)


def prompt(length: int) -> list[int]:
    return [3 + i % 500 for i in range(length)]


# --- the batch ---


@pytest.mark.parametrize(
    ("changes", "iterations"),
    [({}, 4), ({"max_prefill_chunk_tokens": 50}, 2), ({"max_num_batched_tokens": 20}, 5)],
    ids=str,
)
def test_token_limits_cut_a_prompt_of_100_into_chunks(make_driver, changes, iterations):
    driver = make_driver(**changes)  # 32 tokens of a prompt and 128 in all
    driver.add(0, prompt(100), ONE_TOKEN)
    driver.run()
    assert driver.core.stats().iterations == iterations


@pytest.mark.parametrize(("max_num_seqs", "iterations"), [(4, 24), (1, 96)])
def test_max_num_seqs_is_the_width_of_the_batch(make_driver, max_num_seqs, iterations):
    driver = make_driver(max_num_seqs=max_num_seqs)
    for request_id in range(4):
        driver.add(request_id, prompt(5))
    driver.run()
    assert driver.core.stats().iterations == iterations


# --- the order ---


@pytest.mark.parametrize(
    ("policy", "level", "time_sliced", "ahead_of_urgent"),
    [
        ("skip-join-mlfq", 3, True, 0),
        ("learned", 0, True, 0),  # with nothing learned: in order of arrival
        ("mlfq", 0, True, 0),
        ("fcfs", 0, False, 1),
        ("priority", 0, False, 0),
    ],
)
def test_scheduling_policy_places_a_long_prompt_and_an_urgent_one(
    make_driver, policy, level, time_sliced, ahead_of_urgent
):
    driver = make_driver(scheduling_policy=policy, first_quantum_s=1e-9, num_levels=4)
    driver.add(0, prompt(200))
    driver.add(1, prompt(5), priority=-1)
    long, urgent = driver.core.explain(0), driver.core.explain(1)
    assert long["level"] == level
    assert math.isfinite(long["quantum_s"]) == time_sliced
    assert urgent["requests_ahead"] == ahead_of_urgent


@pytest.mark.parametrize(
    ("objectives", "first"), [({}, False), ({"ttft_slo_s": 60.0}, True), ({"tpot_slo_s": 1.0}, True)]
)
def test_objectives_put_requests_before_those_without(make_driver, objectives, first):
    driver = make_driver(scheduling_policy="slo", **objectives)
    driver.add(0, prompt(5))
    assert (driver.core.explain(0)["level"] == 1) == first


def test_objectives_of_a_request_put_it_before_those_without(make_driver):
    driver = make_driver(scheduling_policy="slo")
    driver.add(0, prompt(5))
    driver.add(1, prompt(5), ttft_slo_s=60.0)
    driver.add(2, prompt(5), tpot_slo_s=1.0)
    assert [driver.core.explain(i)["requests_ahead"] for i in range(3)] == [2, 0, 1]


def test_policy_srpt_is_refused_outside_the_simulator():
    with pytest.raises(InvalidArgumentError, match=r"srpt.*simulator only: use learned"):
        EngineCore.from_config(engine_config(scheduling_policy="srpt"))


def test_quantum_options_are_the_quanta_of_the_levels(make_driver):
    options = {"scheduling_policy": "mlfq", "first_quantum_s": 1e-9, "quantum_ratio": 5.0, "num_levels": 2}
    driver = make_driver(**options)
    driver.add(0, prompt(5))
    assert driver.core.explain(0)["quantum_s"] == pytest.approx(1e-9)
    while driver.core.explain(0)["level"] == 0:  # any iteration uses the first quantum up
        driver.step()
    assert driver.core.explain(0)["quantum_s"] == pytest.approx(5e-9)
    driver.run()


def test_quanta_by_default_go_from_the_shortest_iteration_to_the_longest_prefill(make_driver):
    core = make_driver(scheduling_policy="skip-join-mlfq", quantum_ratio=1.5).core
    first_s, longest_s = core.latency.decode_s(1, 1), core.latency.prefill_s(256)
    num_levels = len(core.stats().level_requests)
    assert first_s * 1.5 ** (num_levels - 1) >= longest_s
    assert num_levels == 1 or first_s * 1.5 ** (num_levels - 2) < longest_s


@pytest.mark.parametrize("num_levels", [1, 7])
def test_num_levels_is_the_number_of_levels(make_driver, num_levels):
    core = make_driver(scheduling_policy="skip-join-mlfq", num_levels=num_levels).core
    assert len(core.stats().level_requests) == num_levels


@pytest.mark.parametrize(("limit_s", "promoted"), [(1e-6, True), (1e6, False)])
def test_starvation_limit_promotes_who_waited_that_long(make_driver, limit_s, promoted):
    driver = make_driver(scheduling_policy="skip-join-mlfq", max_num_seqs=1, starvation_limit_s=limit_s, num_levels=4)
    for request_id in range(2):
        driver.add(request_id, prompt(5))
    driver.run()
    assert (driver.core.stats().promotions > 0) == promoted


# --- memory ---

ROOM_FOR_ONE = {
    "num_gpu_blocks_override": 16,
    "scheduling_policy": "priority",
    "max_prefill_chunk_tokens": 256,
    "max_num_batched_tokens": 256,
    "write_through": False,
    "proactive_offload": False,
}


def evict_one(driver: Driver, prepare: Callable[[EngineCore], None] = lambda core: None) -> None:
    """Run a request of 13 blocks, and before its end a more urgent one that does not fit beside it."""
    driver.add(0, prompt(200))
    for _ in range(3):
        driver.step()
    prepare(driver.core)
    driver.add(1, prompt(100), priority=-1)
    driver.run()


@pytest.mark.parametrize(
    ("mode", "link_bytes_per_s", "num_host", "counted"),
    [
        ("swap", 1.0, 256, "swaps"),
        ("recompute", 1e15, 256, "recomputes_by_mode"),
        ("auto", 1e15, 256, "swaps"),
        ("auto", 1.0, 256, "recomputes_cheaper"),
        ("swap", 1e15, 0, "recomputes_no_host"),
    ],
)
def test_preemption_mode_decides_what_becomes_of_kv(make_driver, mode, link_bytes_per_s, num_host, counted):
    driver = make_driver(**ROOM_FOR_ONE, preemption_mode=mode, num_host_blocks_override=num_host)
    evict_one(driver, lambda core: core.scheduler.set_link_rates(link_bytes_per_s, link_bytes_per_s))
    stats = driver.core.scheduler.stats()
    assert (stats.parks, getattr(stats, counted)) == (1, 1)
    assert [len(tokens) for tokens in driver.tokens.values()] == [24, 24]


@pytest.mark.parametrize(("limit", "parks"), [(1, 1), (2, 2)])
def test_max_parks_per_request_spares_who_was_parked_so_often(make_driver, limit, parks):
    driver = make_driver(**ROOM_FOR_ONE, max_parks_per_request=limit)

    def park_once(core: EngineCore) -> None:
        core_internals.park(core.scheduler, 0, False, time.monotonic())
        while core.explain(0)["parks"] < 1 or core.explain(0)["state"] != "running":
            driver.step()

    evict_one(driver, park_once)
    assert driver.core.scheduler.stats().parks == parks


def two_residents(driver: Driver) -> Driver:
    """Two requests of 5 blocks take turns in a batch of one; 5 blocks of 16 stay free."""
    for request_id in range(2):
        driver.add(request_id, prompt(80), LONG)
    for _ in range(20):
        driver.step()
    return driver


TURNS = {
    "num_gpu_blocks_override": 16,
    "scheduling_policy": "mlfq",
    "first_quantum_s": 1e-9,
    "num_levels": 2,
    "max_num_seqs": 1,
    "max_prefill_chunk_tokens": 80,
    "async_scheduling": False,
    "preemption_mode": "swap",
}


@pytest.mark.parametrize(
    ("proactive_offload", "reserve_iterations", "moved"), [(True, 100, True), (False, 100, False), (True, 1, False)]
)
def test_kv_moves_ahead_of_need_as_far_as_the_reserve_asks(make_driver, proactive_offload, reserve_iterations, moved):
    options = TURNS | {"proactive_offload": proactive_offload, "reserve_iterations": reserve_iterations}
    stats = two_residents(make_driver(**options, write_through=False)).core.scheduler.stats()
    assert (stats.offload_blocks > 0) == moved


@pytest.mark.parametrize(("upload_margin", "ahead"), [(0.3, True), (0.5, False)])
def test_upload_margin_decides_whether_kv_comes_back_ahead_of_its_turn(make_driver, upload_margin, ahead):
    options = {"preemption_mode": "swap", "write_through": False, "max_num_seqs": 1, "first_quantum_s": 10.0}
    driver = make_driver(num_gpu_blocks_override=16, starvation_limit_s=1e6, upload_margin=upload_margin, **options)
    driver.add(0, prompt(80), LONG)
    for _ in range(8):
        driver.step()
    driver.add(1, prompt(220), priority=-1)  # takes 14 of the 16 blocks, so the 6 of the first must leave
    while 1 in driver.unfinished:
        driver.step()
    driver.add(2, prompt(5), LONG, priority=-1)
    driver.core.scheduler.set_link_rates(1.0, 1.0)  # copies take so long that every turn is near
    while len(driver.tokens[2]) < 20:
        driver.step()
    # The last one has 2 blocks: 14 are free, and 7 of them would be taken by what comes back.
    assert driver.core.explain(0)["kv"] in (("uploading", "device") if ahead else ("host",))
    driver.run()
    stats = driver.core.scheduler.stats()
    assert (stats.uploads_hit, stats.uploads_late) == ((1, 0) if ahead else (0, 1))


@pytest.mark.parametrize("write_through", [True, False])
def test_write_through_copies_full_blocks_that_stay(make_driver, write_through):
    driver = two_residents(make_driver(**TURNS, write_through=write_through, proactive_offload=False))
    stats = driver.core.scheduler.stats()
    assert (stats.mirror_blocks > 0) == write_through
    assert stats.parks == 0


@pytest.mark.parametrize(("limit", "trips"), [(0.5, True), (1e6, False)])
def test_thrash_parks_per_finish_trips_the_governor(make_driver, limit, trips):
    driver = make_driver(thrash_parks_per_finish=limit, num_gpu_blocks_override=16, preemption_mode="swap")
    for request_id in range(4):  # two of them fill the 16 blocks
        driver.add(request_id, prompt(90), LONG)
    for request_id in range(10, 90):  # each takes the memory of one that is behind its class
        driver.add(request_id, prompt(90), ONE_TOKEN, priority=-1)
        while request_id in driver.unfinished:
            driver.step()
        driver.step()
        driver.step()
    driver.run()
    assert driver.core.stats().iterations >= 256, "the governor looks at 256 iterations"
    assert (driver.core.stats().thrash_governor_trips > 0) == trips
