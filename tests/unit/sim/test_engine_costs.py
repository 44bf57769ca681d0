"""What an engine adds to iterations, against sums by hand and in whole runs."""

import numpy as np
import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.sim import EngineCosts, FittedCost, Parallelism, roofline_deployment, simulate, with_engine_costs
from tests.unit.sim.small import COEFFICIENTS, deployment, scheduler, workload

PREFILL = (40, 40 * 41 / 2, 0, 0)
DECODES = (0, 0, 3, 120)
BOTH = (*PREFILL[:2], *DECODES[2:])


def iteration_s(shape: tuple[float, ...], **costs: object) -> float:
    return with_engine_costs(deployment(), EngineCosts(**costs)).cost.iteration_s(*shape)


@pytest.mark.parametrize("shape", [PREFILL, DECODES, BOTH])
def test_costs_per_iteration_and_row_come_on_top(shape):
    device_s = FittedCost(COEFFICIENTS).iteration_s(*shape)
    assert iteration_s(shape, iteration_s=0.5) == pytest.approx(device_s + 0.5)
    assert iteration_s(shape, row_s=0.25) == pytest.approx(device_s + 0.25 * shape[2])
    assert iteration_s(shape) == device_s


def test_each_device_but_the_first_costs_its_part():
    for tensor, pipeline in ((1, 1), (2, 1), (4, 2)):
        plain = roofline_deployment("opt-13b", "h100", parallelism=Parallelism(tensor=tensor, pipeline=pipeline))
        slower = with_engine_costs(plain, EngineCosts(device_s=0.01))
        added_s = slower.cost.iteration_s(*DECODES) - plain.cost.iteration_s(*DECODES)
        assert added_s == pytest.approx(0.01 * (tensor * pipeline - 1))


def test_separate_prefills_make_two_whole_iterations_of_a_mixed_one_only():
    costs = {"iteration_s": 0.5, "row_s": 0.25}
    apart_s = sum(iteration_s(shape, **costs) for shape in (PREFILL, DECODES))
    assert iteration_s(BOTH, **costs, separate_prefills=True) == pytest.approx(apart_s)
    assert apart_s > 0.5 + iteration_s(BOTH, **costs)
    for shape in (PREFILL, DECODES):
        assert iteration_s(shape, **costs, separate_prefills=True) == iteration_s(shape, **costs)


def test_separate_prefills_keep_one_group_of_a_pipeline_busy():
    plain = roofline_deployment("opt-13b", "h100", parallelism=Parallelism(pipeline=4))
    added_s = with_engine_costs(plain, EngineCosts(separate_prefills=True)).cost.iteration_s(*BOTH)
    added_s -= plain.cost.iteration_s(*DECODES)
    one_stage = roofline_deployment("opt-13b", "h100").cost.iteration_s(*PREFILL)
    assert added_s == pytest.approx(one_stage / 4, rel=0.05)  # a quarter of the layers; hops are small


def test_a_running_request_waits_for_the_separate_prefill_of_another():
    load = workload(
        2, arrival_s=np.array([0.0, 0.05]), prompt_tokens=np.array([10, 60]), output_tokens=np.array([30, 1])
    )
    mixed, apart = (
        simulate(load, with_engine_costs(deployment(), EngineCosts(separate_prefills=separate)), scheduler("fcfs"))
        for separate in (False, True)
    )
    # The second prompt reads the weights a second time: the base of one more iteration, and nothing else.
    assert apart.requests.e2e_s[0] == pytest.approx(mixed.requests.e2e_s[0] + COEFFICIENTS[0])


@pytest.mark.parametrize("name", ["iteration_s", "device_s", "row_s"])
@pytest.mark.parametrize("value", [-1e-9, 1001.0, float("nan")])
def test_costs_out_of_range_are_refused(name, value):
    with pytest.raises(InvalidArgumentError, match=f"{name} must be between 0 and 1000 seconds"):
        EngineCosts(**{name: value})
