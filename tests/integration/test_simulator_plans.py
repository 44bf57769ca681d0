"""The simulator makes the plans that the engine made, byte for byte, when the same things happen at the same times."""

import time
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import pytest

from fastserve._C.sched import LatencyModel, StepPlan
from fastserve.engine.core import EngineCore
from fastserve.executor.inproc import InprocExecutor
from fastserve.sim.executor import SimulatedExecutor
from fastserve.sim.host_link import Copy
from fastserve.worker.request_changes import RequestChanges
from fastserve.worker.step_output import StepOutput
from tests.integration.engine_driver import GREEDY, Driver, engine_config, random_prompts
from tests.plans import contents

BATCH_EVERY = 5  # steps between two arrivals of requests


class Recording:
    """The inputs of an engine and their times: times asked for, results of its plans; and the plans it made of it."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.plans: list[tuple[object, ...]] = []
        self._results: list[Future[StepOutput]] = []

    def clock(self) -> float:
        self.times.append(time.monotonic())
        return self.times[-1]

    def submit_to(self, executor: InprocExecutor) -> Callable[[StepPlan], Future[StepOutput]]:
        submit = executor.submit

        def recorded(plan: StepPlan, changes: RequestChanges) -> Future[StepOutput]:
            self.plans.append(contents(plan))
            self._results.append(submit(plan, changes))
            return self._results[-1]

        return recorded

    def outputs(self) -> list[StepOutput]:
        return [result.result() for result in self._results]


class ScriptedClock:
    """Says the recorded times in their order; nothing else moves it."""

    now_s = 0.0

    def __init__(self, times: list[float]) -> None:
        self._times = iter(times)

    def __call__(self) -> float:
        return next(self._times)

    def advance_to(self, _time_s: float) -> None:
        pass


class ScriptedWorker:
    """Cost model, samples and link of a simulated executor that repeat recorded results, plan after plan."""

    is_busy = True

    def __init__(self, outputs: list[StepOutput]) -> None:
        self._to_cost, self._to_sample, self._to_end = iter(outputs), iter(outputs), iter(outputs)
        self._rates = {True: 0.0, False: 0.0}

    def iteration_s(self, *_shape: float) -> float:
        return next(self._to_cost).elapsed_s

    def sample(self, _plan: StepPlan) -> np.ndarray:
        return next(self._to_sample).sampled

    def start(self, *_copy: object, to_host: bool) -> None:
        pass

    def advance(self, _now_s: float) -> None:
        pass

    def advance_to_first_end(self, limit_s: float) -> float:
        next(self._to_cost)  # a plan without rows
        return limit_s

    def take_ended(self) -> list[Copy]:
        transfers = next(self._to_end).transfers
        self._rates = {True: transfers.offload_bytes_per_s, False: transfers.upload_bytes_per_s}
        return [Copy(copy_id, True, 0.0, 0.0) for copy_id in transfers.ids.tolist()]

    def measured_bytes_per_s(self, *, to_host: bool) -> float:
        return self._rates[to_host]


def drive(core: EngineCore) -> Driver:
    """Requests that come in groups while others run; the KV of all does not fit."""
    driver, groups = Driver(core), [random_prompts(4, seed=seed) for seed in range(4)]

    def arrive(driver: Driver) -> None:
        if groups and driver.steps % BATCH_EVERY == 0:
            first = len(driver.tokens)
            for i, prompt in enumerate(groups.pop()):
                driver.add(first + i, prompt, GREEDY, priority=i % 2)

    arrive(driver)
    driver.run(arrive)
    return driver


@pytest.mark.parametrize("policy", ["skip-join-mlfq", "fcfs"])
def test_the_same_events_give_the_same_plans(policy):
    changes = {"scheduling_policy": policy, "num_gpu_blocks_override": 20, "starvation_limit_s": 0.02}
    config = engine_config(**changes, preemption_mode="swap")
    recording, worker = Recording(), InprocExecutor(config)
    try:
        worker.submit = recording.submit_to(worker)
        engine = drive(EngineCore(config, worker, LatencyModel(), clock=recording.clock))
        engine.check_drained()
        outputs, info = recording.outputs(), worker.info
    finally:
        worker.stop()
    assert sum(output.transfers.ids.size for output in outputs) > 0, "KV has moved"

    plans = []
    script = ScriptedWorker(outputs)
    simulated = SimulatedExecutor(info, script, script, ScriptedClock(recording.times), script.sample)
    submit = simulated.submit
    simulated.submit = lambda plan, changes: (plans.append(contents(plan)), submit(plan, changes))[1]
    simulation = drive(EngineCore(config, simulated, LatencyModel(), clock=simulated.clock))
    assert plans == recording.plans
    assert simulation.tokens == engine.tokens
