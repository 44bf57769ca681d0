"""One worker in this process, on threads of its own, so that the engine plans the next step while it runs."""

from concurrent.futures import Future, ThreadPoolExecutor

from fastserve.config import EngineConfig
from fastserve.types import StructuredOutputs
from fastserve.worker.info import Progress, StepPlan, WorkerInfo
from fastserve.worker.request_changes import NO_CHANGES, RequestChanges
from fastserve.worker.step_output import StepOutput
from fastserve.worker.worker import Worker


class InprocExecutor:
    """Plans run in the order in which they are submitted.

    A device that works beside the host gets the next plan while it runs the one before: one thread launches plans, a
    second one waits for their ends.
    """

    def __init__(self, config: EngineConfig, progress: Progress | None = None) -> None:
        self.worker = Worker(config, progress)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fastserve-worker")
        self._ends = ThreadPoolExecutor(
            max_workers=1, thread_name_prefix="fastserve-worker-ends"
        )  # starts with its use

    @property
    def info(self) -> WorkerInfo:
        """Facts of the loaded model."""
        return self.worker.info

    def submit(self, plan: StepPlan, changes: RequestChanges = NO_CHANGES) -> "Future[StepOutput]":
        """Run a plan after those already submitted; see Executor.

        Raises:
            DeviceLostError: the device was lost in an earlier plan.
        """
        self.check()
        if not self.worker.works_ahead:
            return self._thread.submit(self.worker.execute, plan, changes)
        launched = self._thread.submit(self.worker.launch, plan, changes)
        return self._ends.submit(lambda: self.worker.finish(launched.result()))

    def prepare_form(self, form: StructuredOutputs) -> "Future[object]":
        """See Executor."""
        return self.worker.prepare_form(form)

    def check(self) -> None:
        """See Executor."""
        self.worker.check_device()

    def time_iteration(self, **shape: int) -> float:
        """Return the seconds of a dummy iteration; see Worker.time_iteration."""
        return self._thread.submit(lambda: self.worker.time_iteration(**shape)).result()

    def stop(self) -> None:
        """Finish what was submitted and release the worker; may be called again."""
        self._thread.shutdown(wait=True)
        self._ends.shutdown(wait=True)
        self.worker.close()
