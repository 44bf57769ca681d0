"""Changes of the request tables are kept until a plan takes them along, and no more of them than there are slots."""

import numpy as np

from fastserve.engine.changes import PendingChanges
from fastserve.types import SamplingParams
from fastserve.worker.request_changes import NO_CHANGES, RequestStart


def start(slot: int) -> RequestStart:
    return RequestStart(slot=slot, prompt=np.ones(1, np.int32), max_total_tokens=2, sampling=SamplingParams(), seed=0)


def slots(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_starts_and_ends_go_with_the_next_plan_once():
    pending = PendingChanges()
    assert pending.take().is_first
    one, two = start(1), start(2)
    pending.start(one)
    pending.start(two)
    pending.end(slots(7))
    changes = pending.take()
    assert changes.started == (one, two)
    assert changes.ended == (7,)
    assert not changes.is_first
    assert pending.take() is NO_CHANGES


def test_a_request_that_ended_before_any_plan_is_not_in_the_changes():
    pending = PendingChanges()
    pending.take()
    for _ in range(1000):
        pending.start(start(3))
        pending.end(slots(3))
    assert pending.take() is NO_CHANGES


def test_a_slot_that_ended_and_started_again_is_freed_and_written():
    pending = PendingChanges()
    pending.end(slots(3))
    again = start(3)
    pending.start(again)
    changes = pending.take()
    assert (changes.ended, changes.started) == ((3,), (again,))
