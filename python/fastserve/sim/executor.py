"""An executor that computes nothing: a cost model gives the time of plans, the host link that of copies."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np

from fastserve._C.sched import StepPlan
from fastserve.errors import InternalError, InvalidArgumentError
from fastserve.sim.clock import VirtualClock
from fastserve.sim.cost import CostModel
from fastserve.sim.host_link import Copy, SimulatedLink
from fastserve.types import StructuredOutputs
from fastserve.worker.info import IDLE_WAIT_S, WorkerInfo
from fastserve.worker.request_changes import NO_CHANGES, RequestChanges
from fastserve.worker.step_output import StepOutput, TransferResults

# Called for every plan that ended with plan, start, end and the copies that ended by then.
OnStep = Callable[[StepPlan, float, float, list[Copy]], None]
# Tokens of a plan: int32[num_samples].
SampleTokens = Callable[[StepPlan], np.ndarray]

_NO_TRANSFERS = TransferResults()


class SimulatedStep:
    """A plan on its way; waiting for it lets the clock run to its end."""

    __slots__ = ("_executor", "elapsed_s", "end_s", "plan", "start_s")

    def __init__(self, executor: "SimulatedExecutor", plan: StepPlan) -> None:
        self._executor = executor
        self.plan = plan
        self.start_s = self.elapsed_s = 0.0
        self.end_s = float("inf")  # until the plan before it has ended

    def done(self) -> bool:
        """See PendingStep."""
        return self.end_s <= self._executor.clock.now_s

    def result(self) -> StepOutput:
        """See PendingStep."""
        return self._executor.finish(self)


class SimulatedExecutor:
    """Acts like a worker, in the same order: start the copies of a plan, run it, report finished copies.

    A plan begins when it was submitted and the one before it has ended.
    """

    def __init__(
        self, info: WorkerInfo, cost: CostModel, link: SimulatedLink, clock: VirtualClock, sample: SampleTokens
    ) -> None:
        """Run plans of `info` with these costs and samples; `clock` is the engine's."""
        self.clock = clock
        self._info = info
        self._cost = cost
        self._link = link
        self._steps: deque[SimulatedStep] = deque()
        self._sample = sample
        self._on_step: OnStep | None = None

    @property
    def info(self) -> WorkerInfo:
        """See Executor."""
        return self._info

    @property
    def end_s(self) -> float:
        """When the plan under way ends; the past when there is none."""
        return self._steps[0].end_s if self._steps else 0.0

    def tell(self, on_step: OnStep) -> None:
        """Call `on_step` whenever a plan has ended."""
        self._on_step = on_step

    def prepare_form(self, _form: StructuredOutputs) -> "Future[object]":
        """Refuse: simulated outputs have no text."""
        refused: Future[object] = Future()
        refused.set_exception(InvalidArgumentError("simulated outputs have no form: leave structured_outputs out"))
        return refused

    def submit(self, plan: StepPlan, _changes: RequestChanges = NO_CHANGES) -> SimulatedStep:
        """See Executor."""
        step = SimulatedStep(self, plan)
        self._steps.append(step)
        if len(self._steps) == 1:
            self._begin(step, self.clock.now_s)
        return step

    def finish(self, step: SimulatedStep) -> StepOutput:
        """Let the clock run to the end of the oldest plan and report it; plans are finished in order."""
        if not self._steps or self._steps[0] is not step:
            raise InternalError("plans are finished once, in the order in which they were submitted")
        self._steps.popleft()
        plan, end_s = step.plan, step.end_s
        self.clock.advance_to(end_s)
        copies = self._ended_copies(end_s)
        output = StepOutput(self._sample(plan), None, self._transfers(copies), step.elapsed_s)
        if self._on_step is not None:
            self._on_step(plan, step.start_s, end_s, copies)
        if self._steps:
            self._begin(self._steps[0], end_s)
        return output

    def check(self) -> None:
        """See Executor."""

    def stop(self) -> None:
        """See Executor."""

    def _begin(self, step: SimulatedStep, now_s: float) -> None:
        plan = step.plan
        step.start_s = now_s
        if plan.num_transfers:
            self._start_copies(plan, now_s)
        if plan.num_rows:
            step.elapsed_s = self._cost.iteration_s(*plan.shape)
            step.end_s = now_s + step.elapsed_s
        else:
            self._link.advance(now_s)
            step.end_s = self._link.advance_to_first_end(now_s + IDLE_WAIT_S)
            step.elapsed_s = step.end_s - now_s

    def _start_copies(self, plan: StepPlan, now_s: float) -> None:
        block_bytes = self._info.pools.block_bytes
        ids, to_host, starts = plan.transfer_ids.tolist(), plan.transfer_to_host.tolist(), plan.transfer_start.tolist()
        for i, copy_id in enumerate(ids):
            num_bytes = (starts[i + 1] - starts[i]) * block_bytes
            self._link.start(now_s, copy_id, num_bytes, to_host=bool(to_host[i]))

    def _ended_copies(self, now_s: float) -> list[Copy]:
        if not self._link.is_busy:
            return []
        self._link.advance(now_s)
        return self._link.take_ended()

    def _transfers(self, copies: list[Copy]) -> TransferResults:
        if not copies:
            return _NO_TRANSFERS
        offload_bytes = upload_bytes = 0.0
        for copy in copies:
            if copy.to_host:
                offload_bytes += copy.num_bytes
            else:
                upload_bytes += copy.num_bytes
        return TransferResults(
            ids=np.array([copy.id for copy in copies], np.int64),
            ok=np.ones(len(copies), np.uint8),
            offload_bytes=int(offload_bytes),
            upload_bytes=int(upload_bytes),
            offload_bytes_per_s=self._link.measured_bytes_per_s(to_host=True),
            upload_bytes_per_s=self._link.measured_bytes_per_s(to_host=False),
        )
