"""Rows for the device: of plans, padded for graphs, dummy ones for measurements."""

import numpy as np

from fastserve._C.kv import KvManager
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler, SchedulerConfig
from fastserve.worker.graphs import batch_buckets
from fastserve.worker.row_inputs import dummy_rows, empty_decode, padded_decode, rows_of_plan


def decode_plan():
    scheduler = Scheduler(
        SchedulerConfig(policy="fcfs", max_num_seqs=4), KvManager(num_device_blocks=64), LatencyModel()
    )
    for request_id, length in ((1, 3), (2, 20)):
        options = RequestOptions(max_tokens=8, ignore_eos=True)
        scheduler.add(request_id, np.arange(5, 5 + length, dtype=np.int32), options, now_s=0.0)
    prefill = scheduler.schedule(0.0)
    return prefill, scheduler.schedule(0.0)


def test_a_token_that_the_step_before_samples_is_named_by_its_entry():
    prefill, decode = decode_plan()
    assert rows_of_plan(prefill).token_sources.tolist() == [-1] * 23
    assert not rows_of_plan(prefill).is_plain_decode
    rows = rows_of_plan(decode)
    assert rows.is_plain_decode
    assert rows.token_sources.tolist() == [0, 1]
    assert rows.logit_rows.tolist() == [0, 1]


def test_empty_rows_behind_the_batch_hold_nothing():
    rows = padded_decode(rows_of_plan(decode_plan()[1]), 4)
    assert rows.num_rows == rows.num_tokens == rows.num_decode_rows == 4
    assert rows.seq_lens.tolist() == [4, 21, 0, 0]
    assert rows.slots.tolist()[2:] == [-1, -1]
    assert rows.token_sources.tolist()[2:] == [-1, -1]
    assert rows.block_start.tolist() == [0, 1, 3, 3, 3]
    assert rows.query_start.tolist() == [0, 1, 2, 3, 4]
    assert rows.logit_rows.tolist() == [0, 1, 2, 3]


def test_a_batch_may_be_all_empty():
    rows = empty_decode(3)
    assert rows.seq_lens.tolist() == [0, 0, 0]
    assert rows.block_start.tolist() == [0, 0, 0, 0]
    assert rows.slots.tolist() == [-1, -1, -1]
    assert rows.is_plain_decode


def test_dummy_rows_use_the_pool_in_turn():
    rows = dummy_rows([1, 3], [17, 5], num_decode_rows=1, num_blocks=2, block_size=16, vocab_size=100)
    assert rows.positions.tolist() == [16, 2, 3, 4]
    assert rows.block_ids.tolist() == [0, 1, 0]
    assert rows.slots.tolist() == [16, 2, 3, 4]
    assert rows.logit_rows.tolist() == [0, 3]
    unwritten = dummy_rows([1], [5], num_decode_rows=1, num_blocks=1, block_size=16, vocab_size=9, write_kv=False)
    assert unwritten.slots.tolist() == [-1]


def test_buckets_are_small_ones_then_every_eighth_up_to_256_and_the_largest_batch():
    assert batch_buckets(1) == [1]
    assert batch_buckets(20) == [1, 2, 4, 8, 16, 20]
    assert batch_buckets(256)[:6] == [1, 2, 4, 8, 16, 24]
    assert batch_buckets(256)[-1] == 256
    assert batch_buckets(1000) == batch_buckets(256)
