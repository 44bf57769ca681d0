"""The search for settings: it starts from what it was given, never makes things worse, and says what it tried."""

import json

import numpy as np
import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.sim import simulate, suggest
from fastserve.sim.suggest import CANDIDATES
from tests.unit.sim.small import deployment, scheduler, workload


def test_the_best_is_the_least_of_the_trials_and_no_worse_than_the_start():
    load = workload(60, rate=1000.0)
    found = suggest(load, deployment(), scheduler(), objective="e2e_s")
    means = [trial.summary.e2e_s.mean for trial in found.trials]
    assert found.trials[0] is found.start
    assert found.best.summary.e2e_s.mean <= min(means) * 1.01 ** len(CANDIDATES)
    assert found.best.summary.e2e_s.mean <= found.start.summary.e2e_s.mean
    assert found.best.summary == simulate(load, deployment(), found.best.scheduler).summary
    assert found.fcfs.scheduler.scheduling_policy == "fcfs"
    assert json.dumps(found.to_dict())


def test_a_light_load_leaves_the_settings_alone():
    load = workload(4, arrival_s=np.arange(4) * 100.0)
    calls = []
    found = suggest(load, deployment(), scheduler(), progress=lambda *call: calls.append(call))
    assert found.best is found.start
    assert calls[-1][0] == calls[-1][1] == len(found.trials) + 1


def test_an_unknown_objective_is_refused():
    with pytest.raises(InvalidArgumentError, match="objective"):
        suggest(workload(2), deployment(), objective="luck")
