"""Plans become kernel inputs: tokens of the step before are filled in."""

import numpy as np
import pytest
import torch

from fastserve._C.kv import KvManager
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler
from fastserve.worker.batch import build_batch

KV_CACHE = torch.zeros(64, 1, 2, 1, 16, 32)


@pytest.fixture
def scheduler():
    kv = KvManager(num_device_blocks=64)
    return Scheduler(kv, LatencyModel(), policy="fcfs", max_num_seqs=4)


def add(scheduler, request_id, prompt):
    wanted = RequestOptions(max_tokens=8, ignore_eos=True)
    scheduler.add(request_id, np.array(prompt, np.int32), wanted, now_s=0.0)


def test_a_prefill_and_the_decode_planned_behind_it(scheduler):
    add(scheduler, 1, [5, 6, 7])
    add(scheduler, 2, [8, 9])
    first = build_batch(scheduler.schedule(0.0), np.empty(0, np.int32), KV_CACHE)
    assert first.token_ids.tolist() == [5, 6, 7, 8, 9]
    assert first.context.positions.tolist() == [0, 1, 2, 0, 1]
    assert first.context.logit_rows.tolist() == [2, 4]

    ahead = scheduler.schedule(0.0)  # while the first one runs: its tokens are not known yet
    assert ahead.token_ids.tolist() == [-1, -1]
    second = build_batch(ahead, np.array([40, 50], np.int32), KV_CACHE)
    assert second.token_ids.tolist() == [40, 50]
    assert second.context.attention.num_decode_rows == 2
    assert ahead.token_ids.tolist() == [-1, -1], "the plan itself is not written to"


def test_a_failed_sample_runs_on_a_valid_token(scheduler):
    add(scheduler, 1, [5, 6, 7])
    scheduler.schedule(0.0)
    batch = build_batch(scheduler.schedule(0.0), np.array([-1], np.int32), KV_CACHE)
    assert batch.token_ids.tolist() == [0]


def test_slots_follow_the_block_table(scheduler):
    add(scheduler, 1, list(range(40)))
    plan = scheduler.schedule(0.0)
    batch = build_batch(plan, np.empty(0, np.int32), KV_CACHE)
    positions = np.arange(40)
    expected = plan.block_ids[positions // 16].astype(np.int64) * 16 + positions % 16
    assert batch.context.slots.tolist() == expected.tolist()
