"""The benchmark of the scheduler, on few steps."""

import pytest

from bench.sched.__main__ import measure_plan, measure_steps


@pytest.mark.parametrize("overload", [False, True])
def test_a_step_is_measured_with_a_full_batch(overload: bool) -> None:
    row = measure_steps("skip-join-mlfq", 300, 20, overload=overload)
    assert row["rows"] == 256
    assert 0 < row["p50_us"] <= row["p99_us"] and len(row["samples_us"]) == 20


def test_every_array_of_a_plan_is_read() -> None:
    row = measure_plan(repeats=3)
    assert row["attributes"] >= 35 and row["bytes"] > 0
