"""Rows of a step that failed are run apart: each that can run does, each that cannot has its own error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve._C.kv import KvManager
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler, SchedulerConfig, StepPlan
from fastserve.ops.sampling import TokenLogprobs
from fastserve.worker.rows_apart import run_apart
from fastserve.worker.sampled import Sampled

LONG = 2  # the request whose prompt takes more than one step, so that its row samples nothing
TOGETHER = RuntimeError("together")
NONE = np.full(3, -1)


def plan_of(num_rows: int) -> StepPlan:
    """A plan of prefills."""
    scheduler = Scheduler(
        SchedulerConfig(max_num_seqs=16, max_prefill_chunk_tokens=8, policy="fcfs"),
        KvManager(num_device_blocks=64),
        LatencyModel(),
    )
    for request_id in range(num_rows):
        prompt = np.full(20 if request_id == LONG else 3, request_id, np.int32)
        scheduler.add(request_id, prompt, RequestOptions(), now_s=0.0)
    return scheduler.schedule(0.0)


def num_logprobs_of(plan: StepPlan) -> np.ndarray:
    """The request with id r asks for r log-probabilities, those with odd ids for none."""
    ids = plan.request_ids[plan.sample_rows]
    return np.where(ids % 2, -1, ids)


def token_of(request_id: int) -> int:
    return 100 + request_id


def run_rows(plan: StepPlan) -> Sampled:
    """A model that gives each request its own token and log-probabilities."""
    requests = plan.request_ids[plan.sample_rows]
    num_top = int(num_logprobs_of(plan).max(initial=-1))
    if num_top < 0:
        return Sampled(requests.astype(np.int32) + 100)
    top = np.tile(np.arange(num_top, dtype=np.int32), (len(requests), 1))
    logprobs = TokenLogprobs(-requests.astype(np.float32), requests.astype(np.int32), top, -top.astype(np.float32))
    return Sampled(requests.astype(np.int32) + 100, logprobs)


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_exactly_the_rows_at_fault_have_errors_and_the_others_their_results(case: tuple[int, set[int]]) -> None:
    num_rows, bad = case
    plan, runs = plan_of(num_rows), []

    def run(part: StepPlan) -> Sampled:
        runs.append(part.num_rows)
        if found := bad & set(part.request_ids.tolist()):
            raise ValueError(f"rows {sorted(found)}")
        return run_rows(part)

    result = run_apart(plan, TOGETHER, run=run, control=lambda: None, num_logprobs=num_logprobs_of(plan))
    if num_rows == 1:
        assert result.errors == {0: "RuntimeError: together"} and not runs
        return
    assert result.errors == {row: f"ValueError: rows [{row}]" for row in bad}
    assert len(runs) <= 2 * num_rows - 2
    for entry, request_id in enumerate(plan.request_ids[plan.sample_rows].tolist()):
        assert result.tokens[entry] == (-1 if request_id in bad else token_of(request_id))
        num_top = num_logprobs_of(plan)[entry]
        if num_top < 0 or request_id in bad:
            continue
        assert (result.logprobs.token_logprobs[entry], result.logprobs.ranks[entry]) == (-request_id, request_id)
        assert result.logprobs.top_ids[entry, :num_top].tolist() == list(range(num_top))
        assert result.logprobs.top_logprobs[entry, :num_top].tolist() == [-float(k) for k in range(num_top)]


def test_when_a_row_of_its_own_fails_as_well_nothing_is_run_and_the_first_error_stands() -> None:
    def broken() -> None:
        raise OSError("the machine is broken")

    with pytest.raises(RuntimeError, match="together") as caught:
        run_apart(plan_of(4), TOGETHER, run=lambda _: pytest.fail("was run"), control=broken, num_logprobs=NONE)
    assert str(caught.value.__cause__) == "the machine is broken"


def test_a_fault_of_the_device_ends_the_search() -> None:
    def run(_: StepPlan) -> Sampled:
        raise OSError("lost")

    def is_fault(error: Exception) -> bool:
        return isinstance(error, OSError)

    with pytest.raises(OSError, match="lost"):
        run_apart(plan_of(4), TOGETHER, run=run, control=lambda: None, num_logprobs=NONE, is_fault=is_fault)
    with pytest.raises(OSError, match="at once"):
        run_apart(
            plan_of(4),
            OSError("at once"),
            run=run,
            control=lambda: pytest.fail("was run"),
            num_logprobs=NONE,
            is_fault=is_fault,
        )
