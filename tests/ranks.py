"""Engines on several ranks in processes: one nursery for all tests of a run, and workers with faults for them."""

import atexit
import functools
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fastserve._C.sched import LatencyModel, StepPlan
from fastserve.config import EngineConfig
from fastserve.engine.core import EngineCore
from fastserve.executor.launcher import Launcher
from fastserve.executor.messages import DEFAULT_WORKER_FACTORY
from fastserve.executor.mp import MpExecutor
from fastserve.models.shard import Shard
from fastserve.worker.info import Progress
from fastserve.worker.request_changes import RequestChanges, RequestStart
from fastserve.worker.step_output import StepOutput
from fastserve.worker.worker import Worker
from tests.core_internals import FaultInjector


@functools.cache
def shared_launcher() -> Launcher:
    """The nursery of this test run: importing torch once is enough."""
    launcher = Launcher()
    atexit.register(launcher.stop)
    return launcher


@contextmanager
def core_on_ranks(config: EngineConfig, worker_factory: str = DEFAULT_WORKER_FACTORY) -> Iterator[EngineCore]:
    """An engine core on ranks in processes; its latency model is not measured."""
    executor = MpExecutor(config, launcher=shared_launcher(), worker_factory=worker_factory)
    core = EngineCore(config, executor, LatencyModel())
    try:
        yield core
    finally:
        core.close()


FAULT_STEP = 5
FAULTY_RANK = 1


def rank_of(place: dict[str, Any]) -> int:
    """The rank of a worker, from its arguments."""
    shard: Shard = place["shard"]
    return shard.stage * shard.tensor_size + shard.tensor_rank


class ThrowingWorker(Worker):
    """The faulty rank raises in one step."""

    def __init__(self, config: EngineConfig, progress: Progress | None, **place: Any) -> None:
        super().__init__(config, progress, **place)
        self._is_faulty = rank_of(place) == FAULTY_RANK

    def execute(self, plan: StepPlan, changes: RequestChanges) -> StepOutput:  # type: ignore[override]
        if self._is_faulty and plan.step == FAULT_STEP:
            self.fail()
        return super().execute(plan, changes)

    def fail(self) -> None:
        raise ValueError("an injected fault")


class DyingWorker(ThrowingWorker):
    """The faulty rank is killed in one step."""

    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class StoppedWorker(ThrowingWorker):
    """The faulty rank stops in one step."""

    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)


class ThrowingInForward(ThrowingWorker):
    """The faulty rank fails within the forward pass of one step, when others may wait for it."""

    def fail(self) -> None:
        def forward(*_args: object, **_options: object) -> torch.Tensor:
            raise MemoryError("no room within a layer")

        self._runner._decoder.forward = forward


class OtherTokens(ThrowingWorker):
    """The faulty rank samples other tokens than the others."""

    def finish(self, launched):
        output = super().finish(launched)
        if self._is_faulty and launched.plan.step == FAULT_STEP:
            output.sampled[:] = 3
        return output

    def fail(self) -> None:
        pass


class BadCopies(Worker):
    """Every fifth copy fails on rank 1; copies of rank 0 take their time."""

    def __init__(self, config: EngineConfig, progress: Progress | None, **place: Any) -> None:
        super().__init__(config, progress, **place)
        faults = FaultInjector(self.transfers.engine)
        if rank_of(place) == FAULTY_RANK:
            from fastserve._C.offload import Direction

            for direction in (Direction.DEVICE_TO_HOST, Direction.HOST_TO_DEVICE):
                faults.inject_failure(direction, 5)
        else:
            faults.inject_random_delay(0.004, 1)


class BadEntry(Worker):
    """The third request cannot be written into the request table, on any rank."""

    def __init__(self, config: EngineConfig, progress: Progress | None, **place: Any) -> None:
        super().__init__(config, progress, **place)
        write, started = self._requests._write, []

        def failing(start: RequestStart) -> None:
            started.append(start)
            if len(started) == 3:
                raise ValueError("no such setting")
            write(start)

        self._requests._write = failing


class OneBadEntry(BadEntry):
    """As BadEntry, on the faulty rank alone: the ranks part."""

    def __init__(self, config: EngineConfig, progress: Progress | None, **place: Any) -> None:
        super().__init__(config, progress, **place)
        if rank_of(place) != FAULTY_RANK:
            del self._requests._write


class NoStart(Worker):
    """The faulty rank cannot start."""

    def __init__(self, config: EngineConfig, progress: Progress | None, **place: Any) -> None:
        if rank_of(place) == FAULTY_RANK:
            raise RuntimeError("no luck today")
        super().__init__(config, progress, **place)


class EndlessStart(Worker):
    """The faulty rank never ends its start."""

    def __init__(self, config: EngineConfig, progress: Progress | None, **place: Any) -> None:
        if rank_of(place) == FAULTY_RANK:
            signal.pause()
        super().__init__(config, progress, **place)


def descriptors() -> list[str]:
    """What the descriptors of this process stand for."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except OSError:
            continue
    return sorted(name.split(":")[0] for name in found)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be asked about does not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
