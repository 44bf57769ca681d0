"""The levels of a policy on a deployment: what each grants, and which requests join it."""

from dataclasses import asdict, dataclass

import numpy as np

from fastserve._C.sched import LatencyModel, StepPlan
from fastserve.config import SchedulerConfig
from fastserve.sim.deployment import Deployment
from fastserve.sim.engine import simulated_engine
from fastserve.sim.summary import plain_values


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level, from the highest on.

    Attributes:
        quantum_s: seconds of iterations that it grants; infinite = no request is demoted.
        max_prompt_tokens: longest uncached prompt whose prefill the quantum covers, at most max_model_len - 1; 0 = none.
        decodes: iterations of a full batch, half a context long, that fit the quantum.
    """

    quantum_s: float
    max_prompt_tokens: int
    decodes: float

    def to_dict(self) -> dict[str, object]:
        """Plain values, for JSON; None for infinite."""
        return plain_values(asdict(self))


def explain_policy(deployment: Deployment, scheduler: SchedulerConfig | None = None) -> list[Level]:
    """The levels of the scheduler's policy; empty for one without levels (srpt).

    Raises:
        InvalidArgumentError: the configuration is out of the scheduler's range.
    """
    scheduler = scheduler or SchedulerConfig()
    core = simulated_engine(deployment, scheduler, _no_tokens, enable_prefix_caching=False).core
    latency, quanta_s = core.latency, core.scheduler.level_quanta_s()
    batch = scheduler.max_num_seqs
    decode_s = latency.decode_s(batch, batch * deployment.max_model_len / 2)
    most = deployment.max_model_len - 1
    return [
        Level(quantum_s=quantum_s, max_prompt_tokens=_covered(latency, quantum_s, most), decodes=quantum_s / decode_s)
        for quantum_s in quanta_s
    ]


def _no_tokens(_plan: StepPlan) -> np.ndarray:
    """Nothing runs."""
    return np.empty(0, np.int32)


def _covered(latency: LatencyModel, quantum_s: float, most: int) -> int:
    """The longest prompt, at most `most` tokens, whose prefill takes no longer than the quantum."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if latency.prefill_s(middle) <= quantum_s:
            low = middle
        else:
            high = middle - 1
    return low
