"""Scheduler settings for a workload, found by simulating it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from fastserve.config import LEARNING, SchedulerConfig
from fastserve.errors import InvalidArgumentError
from fastserve.sim.deployment import Deployment
from fastserve.sim.simulation import Endings, simulate
from fastserve.sim.summary import Summary
from fastserve.workload import Workload

# Tried one field after the other, the others at the best values found so far.
CANDIDATES = MappingProxyType(
    {
        "starvation_limit_s": (1.0, 3.0, 10.0, 30.0, 100.0),
        "quantum_ratio": (1.5, 2.0, 4.0, 8.0),
        "reserve_iterations": (2, 8, 32),
    }
)
OBJECTIVES = ("normalized_latency_s", "e2e_s", "ttft_s", "tpot_s")
MIN_GAIN = 0.01  # a setting that is not better by this share is not worth a change

# Called as progress(trials made, trials to make).
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """One simulation: its settings and its summary."""

    scheduler: SchedulerConfig
    summary: Summary

    def to_dict(self) -> dict[str, object]:
        """The settings that a search varies, and the summary, as plain values."""
        settings = {name: getattr(self.scheduler, name) for name in CANDIDATES}
        return {"scheduling_policy": self.scheduler.policy} | settings | {"summary": self.summary.to_dict()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Suggestion:
    """The result of the search.

    Attributes:
        objective: the mean of this distribution of Summary was made small.
        start: the settings that were given.
        best: the same where nothing was better by 1 %.
        fcfs: plain arrival order, for comparison.
        trials: all, in the order in which they were made, `start` first.
    """

    objective: str
    start: Trial
    best: Trial
    fcfs: Trial
    trials: tuple[Trial, ...]

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        named = {name: getattr(self, name).to_dict() for name in ("start", "best", "fcfs")}
        return {"objective": self.objective, **named, "trials": [trial.to_dict() for trial in self.trials]}


def suggest(
    workload: Workload,
    deployment: Deployment,
    scheduler: SchedulerConfig | None = None,
    *,
    objective: str = "normalized_latency_s",
    progress: Progress | None = None,
) -> Suggestion:
    """Search the starvation limit, the ratio of quanta and the reserve of blocks for a workload, from `scheduler` on.

    Some twelve simulations. The other settings stay as they are.

    Raises:
        InvalidArgumentError: the objective is none of OBJECTIVES, or the configuration is out of range.
    """
    if objective not in OBJECTIVES:
        raise InvalidArgumentError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective}")
    first = scheduler or SchedulerConfig()
    endings: Endings = (
        "stop-token" if first.policy in LEARNING else "known"
    )  # in all of them alike: each hidden end costs a row
    total = 2 + sum(map(len, CANDIDATES.values()))
    made = 0

    def run(config: SchedulerConfig) -> Trial:
        nonlocal made
        trial = Trial(config, simulate(workload, deployment, config, endings=endings).summary)
        made += 1
        if progress is not None:
            progress(made, total)
        return trial

    def cost(trial: Trial) -> float:
        return float(getattr(trial.summary, objective).mean)

    start = run(first)
    fcfs = run(start.scheduler.of_policy("fcfs"))
    best, trials = start, [start]
    for name, values in CANDIDATES.items():
        fixed = best.scheduler
        for value in values:
            if value == getattr(fixed, name):
                total -= 1
                continue
            changed: dict[str, Any] = {name: value}
            trials.append(run(replace(fixed, **changed)))
            if cost(trials[-1]) < (1.0 - MIN_GAIN) * cost(best):
                best = trials[-1]
    return Suggestion(objective=objective, start=start, best=best, fcfs=fcfs, trials=tuple(trials))
