"""A transfer of several ranks is complete when all have ended it, and good when all are."""

import numpy as np
import pytest

from fastserve.errors import InternalError
from fastserve.executor.tickets import TicketTable
from fastserve.worker.step_output import TransferResults


def ended(*ids: int, ok: bool = True, error: str = "", rate: float = 5.0) -> TransferResults:
    return TransferResults(
        ids=np.array(ids, np.int64),
        ok=np.full(len(ids), ok, np.uint8),
        errors=(error,) if error else (),
        offload_bytes=100 * len(ids),
        offload_bytes_per_s=rate,
        upload_bytes_per_s=2 * rate,
    )


NOTHING = TransferResults()


def test_a_transfer_is_complete_with_its_slowest_rank():
    table = TicketTable(3)
    assert table.join([ended(1, 2), ended(2), NOTHING]).ids.tolist() == []
    assert len(table) == 2
    joined = table.join([NOTHING, ended(1), ended(2, 1)])
    assert joined.ids.tolist() == [1, 2] or joined.ids.tolist() == [2, 1]
    assert joined.ok.tolist() == [1, 1]
    assert len(table) == 0
    assert table.join([NOTHING] * 3).ids.size == 0


def test_one_failed_copy_fails_the_transfer_and_is_named():
    table = TicketTable(2)
    first = table.join([ended(7), ended(7, 8, ok=False, error="no such page")])
    assert (first.ids.tolist(), first.ok.tolist()) == ([7], [0])
    assert first.errors == ("rank 1: no such page",)
    later = table.join([ended(8), NOTHING])
    assert (later.ids.tolist(), later.ok.tolist()) == ([8], [0])


def test_bytes_are_those_of_all_ranks_and_the_rate_is_the_slowest():
    joined = TicketTable(2).join([ended(1, rate=5.0), ended(1, rate=3.0)])
    assert joined.offload_bytes == 200
    assert (joined.offload_bytes_per_s, joined.upload_bytes_per_s) == (3.0, 6.0)


def test_a_rank_ends_a_transfer_once():
    table = TicketTable(2)
    table.join([ended(1), NOTHING])
    with pytest.raises(InternalError, match="rank 0 reports the end of transfer 1 twice"):
        table.join([ended(1), NOTHING])
