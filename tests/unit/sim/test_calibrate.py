"""Costs fitted to iterations, and the latency model with which a simulated engine starts."""

from dataclasses import replace

import numpy as np
import pytest

from fastserve.sim import FittedCost
from fastserve.sim.calibrate import fitted_coefficients
from fastserve.sim.engine import simulated_engine
from tests.unit.sim.small import COEFFICIENTS, deployment, scheduler


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
    told = sum(cost.iteration_s(*shape) for shape in noisy[:, :4].tolist())
    assert told == pytest.approx(noisy[:, 4].sum())


def test_the_engine_starts_with_the_latency_model_of_its_deployment():
    given = (4e-3, 1e-5, 0.0, 2e-4, 0.0)
    place = replace(deployment(), latency=given)
    engine = simulated_engine(place, scheduler(), lambda plan: None, enable_prefix_caching=False)
    assert tuple(engine.core.latency.coefficients()) == given
    assert engine.core.scheduler.level_quanta_s()[0] == pytest.approx(4.2e-3)
