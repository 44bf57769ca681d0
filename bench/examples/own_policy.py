"""Two policies of one's own, simulated beside two that are built in: `python -m bench.examples.own_policy`."""

import numpy as np

from fastserve.config import SchedulerConfig
from fastserve.sim import Policy, QueuedRequest, SimulationResult, roofline_deployment, simulate
from fastserve.workload import NO_CONVERSATION, Workload


class FirstCome(Policy):
    """First come, first served: the same plans as `fcfs`."""

    def join(self, request: QueuedRequest, now_s: float) -> None:
        request.key = now_s


class LeastAttained(Policy):
    """The request that has run for the least time so far goes first, but one that waited for too long before all others."""

    limit_s = 3.0

    def __init__(self) -> None:
        self.requests: dict[int, QueuedRequest] = {}

    def join(self, request: QueuedRequest, now_s: float) -> None:
        self.requests[request.id] = request

    def leave(self, request: QueuedRequest) -> None:
        del self.requests[request.id]

    def charge(self, request: QueuedRequest, iteration_s: float, next_iteration_s: float) -> None:
        request.key = request.attained_s

    def promote(self, now_s: float) -> None:
        for request in self.requests.values():
            if not request.running and now_s - request.waiting_since_s > self.limit_s:
                request.key = -1.0


def main() -> None:
    rng = np.random.default_rng(0)
    workload = Workload(
        name="example",
        arrival_s=np.cumsum(rng.exponential(1 / 60, 400)),
        prompt_tokens=rng.integers(10, 1000, 400),
        output_tokens=rng.integers(1, 400, 400),
        priority=np.zeros(400, np.int64),
        conversation=np.full(400, NO_CONVERSATION),
    )
    deployment = roofline_deployment("llama-3-8b", "a100-80gb")
    results: list[SimulationResult] = [simulate(workload, deployment, policy=p) for p in (FirstCome(), LeastAttained())]
    for name in ("fcfs", "skip-join-mlfq"):
        results.append(simulate(workload, deployment, SchedulerConfig(scheduling_policy=name)))
    for result in results:
        print(f"{result.policy:16} {result.summary.normalized_latency_s.mean:.4f} s per output token on average")


if __name__ == "__main__":
    main()
