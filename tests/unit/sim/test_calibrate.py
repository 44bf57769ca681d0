"""Costs fitted to iterations, the latency model with which a simulated engine starts, and its waits before planning."""

from dataclasses import replace

import numpy as np
import pytest

from fastserve._C.sched import RequestOptions
from fastserve.sim import FittedCost, simulate
from fastserve.sim.calibrate import fitted_coefficients
from fastserve.sim.engine import simulated_engine
from tests.unit.sim.small import COEFFICIENTS, deployment, scheduler, workload


def samples(rows: int, spread: float) -> np.ndarray:
    """Iterations of the costs of COEFFICIENTS; some take longer by up to `spread`."""
    rng = np.random.default_rng(0)
    prefill = rng.integers(0, 2, rows) * rng.integers(1, 200, rows)
    decodes = rng.integers(1, 9, rows)
    shapes = np.column_stack([prefill, prefill * (prefill + 1) / 2, decodes, decodes * rng.integers(1, 300, rows)])
    cost = FittedCost(COEFFICIENTS)
    seconds = [cost.iteration_s(*shape) for shape in shapes.tolist()]
    return np.column_stack([shapes, seconds * (1.0 + spread * rng.random(rows) ** 4)])


def test_undisturbed_iterations_give_their_coefficients():
    assert fitted_coefficients(samples(200, 0.0)) == pytest.approx(COEFFICIENTS, rel=1e-4, abs=1e-9)


def test_slow_iterations_count_in_full():
    noisy = samples(300, 4.0)
    cost = FittedCost(fitted_coefficients(noisy))
    predicted_s = sum(cost.iteration_s(*shape) for shape in noisy[:, :4].tolist())
    assert predicted_s == pytest.approx(noisy[:, 4].sum())


def test_the_engine_starts_with_the_latency_model_of_its_deployment():
    given = (4e-3, 1e-5, 0.0, 2e-4, 0.0)
    place = replace(deployment(), latency=given)
    engine = simulated_engine(place, scheduler(), lambda plan: None, enable_prefix_caching=False)
    assert tuple(engine.core.latency.coefficients()) == given
    assert engine.core.scheduler.level_quanta_s()[0] == pytest.approx(4.2e-3)


def test_the_wait_before_planning_is_in_whole_milliseconds():
    engine = simulated_engine(
        deployment(), scheduler(), lambda plan: np.zeros(plan.num_samples, np.int32), enable_prefix_caching=False
    )
    engine.core.scheduler.add(0, np.zeros(8, np.int32), RequestOptions(max_tokens=4), now_s=0.0)
    engine.core.run_step()
    assert engine.core.planning_delay_s() == pytest.approx(3e-3)  # 70 % of an iteration of 5.2 ms are 3.6 ms


def test_an_iteration_that_ends_before_it_should_is_not_waited_out():
    pessimist = replace(deployment(), latency=tuple(10.0 * coefficient for coefficient in COEFFICIENTS))
    one = workload(1, arrival_s=np.zeros(1), prompt_tokens=np.array([8]), output_tokens=np.array([40]))
    tpot_s = simulate(one, pessimist, scheduler()).requests.tpot_s[0]
    assert 5e-3 < tpot_s < 7.5e-3  # 35 ms if it waited for 70 % of what it expects
