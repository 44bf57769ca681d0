"""The benchmark of the scheduler, on few steps."""

import pytest

from bench.sched.__main__ import measure_plan, measure_steps
from tests.plans import ARRAYS


@pytest.mark.parametrize("overload", [False, True])
def test_steps_are_measured(overload: bool) -> None:
    row = measure_steps("skip-join-mlfq", 300, 20, overload=overload)
    assert row["rows"] == 256 or (overload and 0 < row["rows"] < 256)  # prompts may take all tokens of a step
    assert 0 < row["p50_us"] <= row["p99_us"] and len(row["samples_us"]) == 20


@pytest.mark.parametrize("overload", [False, True])
def test_the_default_policy_is_measured_in_its_own_order(overload: bool) -> None:
    assert measure_steps("learned", 300, 400, overload=overload)["learned"]


def test_every_array_of_a_plan_is_read() -> None:
    row = measure_plan(repeats=3)
    assert row["attributes"] > len(ARRAYS) >= 17
