"""The interface of an executor that the step loop requires."""

from concurrent.futures import Future
from typing import Protocol

from fastserve.types import StructuredOutputs
from fastserve.worker.info import StepPlan, WorkerInfo
from fastserve.worker.request_changes import NO_CHANGES, RequestChanges
from fastserve.worker.step_output import StepOutput


class PendingStep(Protocol):
    """A plan that was submitted; a `concurrent.futures.Future` is one."""

    def done(self) -> bool:
        """Whether `result` would return without waiting."""
        ...

    def result(self) -> StepOutput:
        """Wait for the plan to have run.

        Raises:
            DeviceLostError: no later plan can run either.
            Exception: whatever else the plan raised.
        """
        ...


class Executor(Protocol):
    """Runs plans in the order in which they are submitted, as many at a time as there are stages, and at least two."""

    @property
    def info(self) -> WorkerInfo:
        """Facts of the loaded model."""
        ...

    def submit(self, plan: StepPlan, changes: RequestChanges = NO_CHANGES) -> PendingStep:
        """Run a plan after those already submitted.

        Args:
            changes: of the workers' request tables, to be made before the plan.
        """
        ...

    def prepare_form(self, form: StructuredOutputs) -> "Future[object]":
        """Begin to compile the form of an output, beside the plans; requests whose plans follow its end do not wait for it.

        The result is an InvalidArgumentError where the form cannot be used.
        """
        ...

    def check(self) -> None:
        """Notice what may have happened to the workers while nothing was submitted.

        Raises:
            DeviceLostError: no plan can run any more.
        """
        ...

    def stop(self) -> None:
        """Finish the submitted plans and release the workers; may be called again."""
        ...


class TimingExecutor(Executor, Protocol):
    """An executor that can also run dummy iterations, to measure them."""

    def time_iteration(self, **shape: int) -> float:
        """Seconds of a dummy iteration; see Worker.time_iteration."""
        ...
