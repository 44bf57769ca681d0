"""The worker's request table: written once, gathered by slot, freed; histories follow what was sampled."""

import numpy as np
import pytest

from fastserve._C.kv import KvManager
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler, SchedulerConfig, StepPlan
from fastserve.errors import InternalError
from fastserve.types import SamplingParams
from fastserve.worker.request_changes import RequestChanges, RequestStart
from fastserve.worker.request_table import FIRST_SLOTS, RequestTable

EOS = 7


class Engine:
    """A scheduler and the table that its plans name."""

    def __init__(self) -> None:
        self.scheduler = Scheduler(
            SchedulerConfig(policy="fcfs", max_num_seqs=4), KvManager(num_device_blocks=64), LatencyModel()
        )
        self.table = RequestTable()

    def add(
        self,
        request_id: int,
        prompt: list[int],
        *,
        seed: int = 0,
        bad_word_ids: tuple[tuple[int, ...], ...] = (),
        **sampling: object,
    ) -> int:
        tokens = np.array(prompt, np.int32)
        options = RequestOptions(max_tokens=8, ignore_eos=True)
        slot = self.scheduler.add(request_id, tokens, options, now_s=0.0)
        start = RequestStart(
            slot=slot,
            prompt=tokens,
            max_total_tokens=len(prompt) + 8,
            sampling=SamplingParams(**sampling),
            seed=seed,
            stop_token_ids=(EOS, 8),
            bad_word_ids=bad_word_ids,
        )
        self.table.apply(RequestChanges((start,)))
        return slot

    def plan(self) -> StepPlan:
        return self.scheduler.schedule(0.0)

    def commit(self, plan: StepPlan, tokens: list[int]) -> None:
        sampled = np.array(tokens, np.int32)
        self.table.record(plan, sampled)
        self.scheduler.commit(plan.step, sampled, 0.1, 0.1)


def test_every_setting_arrives_at_the_entry_of_its_request():
    engine = Engine()
    engine.add(1, [1, 2, 3], temperature=0.5, top_k=4, top_p=0.75, min_p=0.25, seed=2**64 - 1, logprobs=3)
    engine.add(2, [1, 2], repetition_penalty=1.5, presence_penalty=0.5, frequency_penalty=-0.5)
    entries = engine.table.entries(engine.plan())
    batch = entries.batch
    assert batch.temperature.tolist() == [0.5, 1.0]
    assert batch.top_k.tolist() == [4, 0]
    assert batch.top_p.tolist() == [0.75, 1.0]
    assert batch.min_p.tolist() == [0.25, 0.0]
    assert batch.repetition_penalty.tolist() == [1.0, 1.5]
    assert batch.presence_penalty.tolist() == [0.0, 0.5]
    assert batch.frequency_penalty.tolist() == [0.0, -0.5]
    assert batch.seeds.view(np.uint64).tolist() == [2**64 - 1, 0]
    assert batch.counters.tolist() == [3, 2]
    assert entries.num_logprobs.tolist() == [3, -1]


def test_a_history_is_prompt_and_output_of_those_with_penalties():
    engine = Engine()
    engine.add(1, [1, 2, 3])
    engine.add(2, [8, 9], repetition_penalty=1.5)
    first = engine.plan()
    batch = engine.table.entries(first).batch
    assert batch.history_start.tolist() == [0, 0, 2]
    assert batch.history_tokens.tolist() == [8, 9]
    assert batch.history_prompt_len.tolist() == [0, 2]
    engine.commit(first, [40, 50])
    second = engine.plan()
    batch = engine.table.entries(second).batch
    assert batch.history_tokens.tolist() == [8, 9, 50]
    engine.commit(second, [41, -1])  # no token: it ends, but may be in a plan already
    assert engine.table.entries(second).batch.history_tokens.tolist() == [8, 9, 50]


def test_a_penalty_too_small_to_change_a_logit_needs_no_history():
    engine = Engine()
    engine.add(1, [1, 2], repetition_penalty=1.0 + 1e-12)
    assert engine.table.entries(engine.plan()).batch.history_tokens.size == 0


def test_tokens_that_end_a_request_are_banned_before_its_min_tokens():
    engine = Engine()
    engine.add(1, [1, 2, 3])
    engine.add(2, [4, 5], min_tokens=1)
    first = engine.plan()
    batch = engine.table.entries(first).batch
    assert batch.banned_start.tolist() == [0, 0, 2]
    assert batch.banned_tokens.tolist() == [EOS, 8]
    engine.commit(first, [40, 50])
    batch = engine.table.entries(engine.plan()).batch
    assert batch.banned_start.tolist() == [0, 0, 0]
    assert batch.banned_tokens.size == 0


def test_entries_follow_the_slots_of_a_part_of_a_plan():
    engine = Engine()
    for request_id in range(3):
        engine.add(request_id, [1, 2], temperature=request_id / 2, frequency_penalty=request_id / 2)
    part = engine.plan().slice(1, 3)
    batch = engine.table.entries(part).batch
    assert batch.temperature.tolist() == [0.5, 1.0]
    assert batch.history_start.tolist() == [0, 2, 4]


def test_a_slot_is_written_again_after_it_was_freed_and_keeps_nothing():
    engine = Engine()
    lists = {"bad_word_ids": ((3,),), "logit_bias": {4: 1.0}, "allowed_token_ids": (4,)}
    slot = engine.add(1, [1, 2], presence_penalty=1.0, min_tokens=3, **lists)
    engine.table.apply(RequestChanges(ended=(slot,)))
    assert len(engine.table) == 0
    start = RequestStart(
        slot=slot, prompt=np.array([5], np.int32), max_total_tokens=9, sampling=SamplingParams(), seed=1
    )
    engine.table.apply(RequestChanges((start,)))
    batch = engine.table.entries(engine.plan()).batch
    assert not batch.has_lists
    assert batch.only_biased.tolist() == [0]
    assert batch.presence_penalty.tolist() == [0.0]


def test_a_slot_in_use_is_not_written_and_one_that_is_free_not_freed():
    table = RequestTable()
    start = RequestStart(slot=0, prompt=np.ones(1, np.int32), max_total_tokens=9, sampling=SamplingParams(), seed=1)
    table.apply(RequestChanges((start,)))
    with pytest.raises(InternalError, match=r"slot 0 .* is in use"):
        table.apply(RequestChanges((start,)))
    with pytest.raises(InternalError, match=r"slot 3 .* not in use"):
        table.apply(RequestChanges(ended=(3,)))


def test_the_first_changes_of_an_engine_core_free_what_another_one_left():
    table = RequestTable()
    for core in range(2):
        start = RequestStart(
            slot=core, prompt=np.ones(1, np.int32), max_total_tokens=9, sampling=SamplingParams(), seed=1
        )
        table.apply(RequestChanges((start,), is_first=True))
        assert len(table) == 1


def test_the_table_grows_with_the_requests_and_keeps_what_it_has():
    table = RequestTable()
    starts = [
        RequestStart(
            slot=slot, prompt=np.ones(1, np.int32), max_total_tokens=9, sampling=SamplingParams(top_k=slot), seed=1
        )
        for slot in range(3 * FIRST_SLOTS)
    ]
    table.apply(RequestChanges(tuple(reversed(starts))))
    assert len(table) == 3 * FIRST_SLOTS
    engine = Engine()
    engine.scheduler.add(1, np.ones(2, np.int32), RequestOptions(), now_s=0.0)
    engine.scheduler.add(2, np.ones(2, np.int32), RequestOptions(), now_s=0.0)
    assert table.entries(engine.plan()).batch.top_k.tolist() == [0, 1]


def test_an_entry_that_cannot_be_written_fails_where_its_request_is_sampled():
    engine = Engine()
    engine.add(1, [1, 2])
    bad = engine.scheduler.add(2, np.ones(2, np.int32), RequestOptions(), now_s=0.0)
    start = RequestStart(slot=bad, prompt=np.ones(2, np.int32), max_total_tokens=9, sampling=SamplingParams(), seed=-1)
    engine.table.apply(RequestChanges((start,)))
    plan = engine.plan()
    with pytest.raises(InternalError, match="the request could not be started: OverflowError"):
        engine.table.entries(plan)
    assert engine.table.entries(plan.slice(0, 1)).batch.temperature.tolist() == [1.0]
    engine.table.apply(RequestChanges(ended=(bad,)))


def test_bad_words_are_banned_throughout_and_need_the_history_where_they_have_several_tokens():
    engine = Engine()
    engine.add(1, [1, 2], bad_word_ids=((30,),))
    engine.add(2, [4, 5], bad_word_ids=((30, 31, 32), (33,)), min_tokens=1)
    first = engine.plan()
    batch = engine.table.entries(first).batch
    assert batch.banned_start.tolist() == [0, 1, 7]
    assert batch.banned_tokens.tolist() == [30, EOS, 8, ~30, ~31, 32, 33]
    assert batch.history_start.tolist() == [0, 0, 2]
    engine.commit(first, [40, 50])
    batch = engine.table.entries(engine.plan()).batch
    assert batch.banned_tokens.tolist() == [30, ~30, ~31, 32, 33]
    assert batch.history_tokens.tolist() == [4, 5, 50]


def test_biases_and_allowed_tokens_are_one_list():
    engine = Engine()
    engine.add(1, [1, 2], logit_bias={5: 1.5, 6: -2.0})
    engine.add(2, [1, 2], logit_bias={5: 1.5, 6: -2.0}, allowed_token_ids=(6, 9, 6))
    engine.add(3, [1, 2])
    batch = engine.table.entries(engine.plan()).batch
    assert batch.bias_start.tolist() == [0, 2, 4, 4]
    assert batch.bias_tokens.tolist() == [5, 6, 6, 9]
    assert batch.bias_values.tolist() == [1.5, -2.0, -2.0, 0.0]
    assert batch.only_biased.tolist() == [0, 1, 0]
