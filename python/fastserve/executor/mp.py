"""Ranks in processes of their own: plans go to all of them through a ring, results come back from each."""

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import numpy as np

from fastserve._C.collective import plan_bytes, plan_frame
from fastserve.config import EngineConfig
from fastserve.errors import DeviceLostError, FastServeError, InternalError
from fastserve.executor.launcher import Launcher
from fastserve.executor.messages import (
    DEFAULT_WORKER_FACTORY,
    LENGTH_BYTES,
    FrameKind,
    FromRank,
    RankCompiled,
    RankResult,
    RankTimed,
    encode,
    form_error,
    step_output,
)
from fastserve.executor.messages import Transfers as TransfersMessage
from fastserve.executor.rank_group import SLOT_BYTES, RankGroup
from fastserve.executor.tickets import TicketTable
from fastserve.types import StructuredOutputs
from fastserve.worker.info import Progress, StepPlan, WorkerInfo
from fastserve.worker.request_changes import NO_CHANGES, RequestChanges
from fastserve.worker.step_output import StepOutput, TransferResults

WAIT_S = 0.5  # for room in the ring, before it is asked whether the ranks live
PLAN_ALIGNMENT = 8  # of a plan in its frame, bytes
PIECE_BYTES = 8 << 20  # of changes that go before the frame of their plan


@dataclass(slots=True)
class _Step:
    """A plan under way, and what ranks have reported of it."""

    number: int
    future: "Future[StepOutput]" = field(default_factory=Future)
    results: dict[int, RankResult] = field(default_factory=dict)


@dataclass(slots=True)
class _Form:
    """A form that the ranks compile, each of them one after the other, and what they have answered."""

    future: "Future[object]" = field(default_factory=Future)
    answers: dict[int, RankCompiled] = field(default_factory=dict)


class MpExecutor:
    """One process per rank, rank 0 included. Ranks run plans in the order in which they are submitted.

    A plan has run when every rank has reported it. Whatever goes wrong on a rank ends them all: others may wait for it.
    """

    def __init__(
        self,
        config: EngineConfig,
        progress: Progress | None = None,
        *,
        launcher: Launcher | None = None,
        worker_factory: str = DEFAULT_WORKER_FACTORY,
    ) -> None:
        """Start the ranks and wait until they have loaded the model.

        Args:
            launcher: that no other executor uses at the same time, and that outlives this one; None = one of its own.
            worker_factory: "module:function" that makes the worker of a rank, see `Worker`.
        Raises:
            FastServeError: what a rank raised at its start; DeviceLostError when one did not start.
        """
        self._parallel = config.parallel
        self._size = config.parallel.num_ranks
        self._lock = threading.Lock()  # over what is under way, below
        self._steps: deque[_Step] = deque()
        self._timings: dict[int, float] = {}
        self._timed: Future[float] = Future()
        self._forms: deque[_Form] = deque()
        self._tickets = TicketTable(self._size)
        self._stopped = False
        self._own_launcher = Launcher() if launcher is None else None
        self._group: RankGroup | None = None
        try:
            self._group = RankGroup(
                config,
                launcher=launcher or self._launcher(),
                worker_factory=worker_factory,
                on_message=self._on_message,
                on_failure=self._on_failure,
            )
            self._info = _joined_info(self._group.wait_ready(progress))
        except BaseException as error:
            self._abandon(error)
            raise

    @property
    def info(self) -> WorkerInfo:
        """Facts of the loaded model."""
        return self._info

    @property
    def pids(self) -> list[int]:
        """Process ids of the ranks."""
        return self._ranks.pids

    def submit(self, plan: StepPlan, changes: RequestChanges = NO_CHANGES) -> "Future[StepOutput]":
        """Run a plan after those already submitted; see Executor.

        Raises:
            DeviceLostError: the ranks have ended.
        """
        self.check()
        text = b"" if changes is NO_CHANGES else encode(changes)
        while len(text) > PIECE_BYTES:
            self._write(FrameKind.CHANGES, text[:PIECE_BYTES])
            text = text[PIECE_BYTES:]
        step = _Step(plan.step)
        with self._lock:
            self._steps.append(step)
        self._write_plan(len(text).to_bytes(LENGTH_BYTES, "little") + text, plan)
        self.check()  # a failure before the step was queued has not reached it
        return step.future

    def prepare_form(self, form: StructuredOutputs) -> "Future[object]":
        """See Executor.

        Raises:
            DeviceLostError: the ranks have ended.
        """
        self.check()
        asked = _Form()
        with self._lock:
            self._forms.append(asked)
        self._write(FrameKind.FORM, encode(form))
        self.check()
        return asked.future

    def check(self) -> None:
        """See Executor."""
        if (failure := self._ranks.failure) is not None:
            raise DeviceLostError(str(failure)) from failure

    def time_iteration(self, **shape: int) -> float:
        """Seconds of a dummy iteration, on the slowest rank of each stage; see Worker.time_iteration."""
        with self._lock:
            self._timings, self._timed = {}, Future()
        self._write(FrameKind.TIME, encode(shape))
        self.check()
        return self._timed.result()

    def stop(self) -> None:
        """Finish what was submitted and end the ranks; may be called again."""
        if self._stopped:
            return
        self._stopped = True
        if self._ranks.failure is None:
            self._write(FrameKind.STOP, b"")
        self._ranks.stop()
        if self._own_launcher is not None:
            self._own_launcher.stop()

    @property
    def _ranks(self) -> RankGroup:
        assert self._group is not None, "they were started"
        return self._group

    def _launcher(self) -> Launcher:
        assert self._own_launcher is not None, "made where no other was given"
        return self._own_launcher

    def _abandon(self, error: BaseException) -> None:
        """Undo a start that failed."""
        self._stopped = True
        if self._group is not None:
            self._group.fail(error if isinstance(error, FastServeError) else DeviceLostError("the start was given up"))
            self._group.stop()
        if self._own_launcher is not None:
            self._own_launcher.stop()

    def _write_plan(self, text: bytes, plan: StepPlan) -> None:
        """Write a plan in place, or in parts where no slot of the ring holds it."""
        if len(text) + PLAN_ALIGNMENT + plan_bytes(plan) <= SLOT_BYTES:
            return self._write(FrameKind.PLAN, text, plan)
        frame = plan_frame(text, plan)
        while len(frame) > SLOT_BYTES:
            self._write(FrameKind.PLAN_PART, frame[:SLOT_BYTES])
            frame = frame[SLOT_BYTES:]
        self._write(FrameKind.PLAN, frame)

    def _write(self, kind: FrameKind, text: bytes, plan: StepPlan | None = None) -> None:
        """Write a frame. It waits for room only behind pieces of changes and plans: there is a slot for each plan under way."""
        ring = self._ranks.ring
        while self._ranks.failure is None:
            written = (
                ring.write(kind, text, timeout_s=WAIT_S)
                if plan is None
                else ring.write_plan(kind, text, plan, timeout_s=WAIT_S)
            )
            if written:
                return

    def _on_message(self, rank: int, message: FromRank) -> None:
        match message:
            case RankResult():
                self._on_result(rank, message)
            case RankTimed():
                with self._lock:
                    self._timings[rank] = message.seconds
                    if len(self._timings) == self._size:
                        self._timed.set_result(self._busy_s([self._timings[rank] for rank in range(self._size)]))

            case RankCompiled():
                self._on_compiled(rank, message)

    def _on_compiled(self, rank: int, message: RankCompiled) -> None:
        with self._lock:
            form = next((form for form in self._forms if rank not in form.answers), None)
            if form is None:
                return
            form.answers[rank] = message
            if len(form.answers) < self._size:
                return
            self._forms.popleft()
        error = next((error for answer in form.answers.values() if (error := form_error(answer))), None)
        if error is None:
            form.future.set_result(None)
        else:
            form.future.set_exception(error)

    def _on_result(self, rank: int, result: RankResult) -> None:
        with self._lock:
            step = next((step for step in self._steps if rank not in step.results), None)
            if step is not None:
                step.results[rank] = result
        if step is None or step.number != result.step:
            expected = "none" if step is None else str(step.number)
            self._ranks.fail(
                InternalError(f"{self._ranks.name_of(rank)} reports step {result.step}, expected was {expected}")
            )
            return
        if len(step.results) < self._size:
            return
        with self._lock:
            self._steps.popleft()  # every rank runs plans in order
        try:
            output = self._joined(step)
        except FastServeError as error:
            with self._lock:
                self._steps.appendleft(step)  # to be failed with the others
            self._ranks.fail(error)
            return
        step.future.set_result(output)

    def _joined(self, step: _Step) -> StepOutput:
        results = [step.results[rank] for rank in range(self._size)]
        width = self._parallel.tensor_parallel_size
        for rank, result in enumerate(results):
            first = rank - rank % width
            if result.digest != results[first].digest:
                raise InternalError(
                    f"{self._ranks.name_of(rank)} has other tokens than rank {first} after step {step.number}: nothing that"
                    f" they hold can be trusted"
                )
        transfers = self._tickets.join([_transfer_results(result.transfers) for result in results])
        return step_output(results[-width], transfers, self._busy_s([result.elapsed_s for result in results]))

    def _busy_s(self, seconds: Sequence[float]) -> float:
        """Seconds of an iteration from those of each rank: stage after stage, the slowest rank of each."""
        width = self._parallel.tensor_parallel_size
        return sum(max(seconds[first : first + width]) for first in range(0, self._size, width))

    def _on_failure(self, error: FastServeError) -> None:
        """Fail what is under way, in the thread that met the failure."""
        with self._lock:
            steps, forms, timed = list(self._steps), list(self._forms), self._timed
            self._steps.clear()
            self._forms.clear()
        lost = DeviceLostError(str(error))
        for step in steps:
            step.future.set_exception(lost)
        for form in forms:
            form.future.set_exception(lost)
        if not timed.done():
            timed.set_exception(lost)


def _transfer_results(message: TransfersMessage | None) -> TransferResults:
    if message is None:
        return TransferResults()
    return TransferResults(
        ids=np.frombuffer(message.ids, np.int64),
        ok=np.frombuffer(message.ok, np.uint8),
        errors=message.errors,
        offload_bytes=message.offload_bytes,
        upload_bytes=message.upload_bytes,
        offload_bytes_per_s=message.offload_bytes_per_s,
        upload_bytes_per_s=message.upload_bytes_per_s,
    )


def _joined_info(infos: list[WorkerInfo]) -> WorkerInfo:
    """Facts of the group; a block is a rank's part of it, and pools are of one size on all ranks."""
    first = infos[0]
    if len(infos) == 1:
        return first
    return replace(
        first,
        pools=replace(first.pools, block_bytes=max(info.pools.block_bytes for info in infos)),
        device=f"{len(infos)} x {first.device}",
        offload_bytes_per_s=min(info.offload_bytes_per_s for info in infos),
        upload_bytes_per_s=min(info.upload_bytes_per_s for info in infos),
    )
