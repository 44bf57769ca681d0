"""The process of a rank: reads plans from the ring, has its worker run them, reports. Decides nothing."""

import hashlib
import importlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection

from fastserve._C.collective import FrameReader, read_plan
from fastserve._C.sched import StepPlan
from fastserve.distributed.group import Group
from fastserve.distributed.shared import SharedGroup
from fastserve.distributed.single import SINGLE
from fastserve.executor.messages import (
    LENGTH_BYTES,
    FrameKind,
    FromRank,
    RankProgress,
    RankReady,
    RankResult,
    RankStart,
    RankTimed,
    compiled_message,
    decode_changes,
    decode_form,
    decode_shape,
    encode,
    failure_message,
    logprobs_message,
    transfers_message,
)
from fastserve.log import configure_logging, get_logger
from fastserve.models.shard import Shard
from fastserve.worker.request_changes import NO_CHANGES, RequestChanges
from fastserve.worker.step_output import StepOutput
from fastserve.worker.worker import Worker

logger = get_logger(__name__)

BEAT_INTERVAL_S = 0.5
LONGEST_WAIT_S = 3600.0  # for a frame; a rank ends with its engine whatever it waits for
NUM_PLANS = 3  # one that runs, the one before it, one more


def run_rank(start: RankStart, connection_fd: int, ring_fd: int, stage_fd: int, world_fd: int) -> int:
    """Serve the engine until it says so; return the exit status.

    Args:
        connection_fd: to the engine, which says nothing here: only its end can be read.
        stage_fd, world_fd: exchanges of the ranks of this stage, and of all ranks.
    """
    configure_logging(start.log_level, json_lines=start.json_logs)
    connection = Connection(connection_fd)
    ring = FrameReader(ring_fd, start.rank)
    threading.Thread(target=_beat, args=(ring, connection), name="fastserve-beat", daemon=True).start()
    try:
        Rank(start, _place(start, stage_fd, world_fd), connection, ring).run()
        return 0
    except Exception as error:
        logger.exception("rank %d failed", start.rank)
        connection.send_bytes(encode(failure_message(error)))
        return 1


def _beat(ring: FrameReader, connection: Connection) -> None:
    """Tell the engine that this process lives, and end it with the engine, also within a call that waits for others."""
    while not connection.poll(BEAT_INTERVAL_S):
        ring.beat()
    os._exit(1)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank stands, and its ends of the groups of its stage and of all ranks."""

    shard: Shard
    group: Group
    world: Group


def _place(start: RankStart, stage_fd: int, world_fd: int) -> Place:
    """Join the groups of a rank; the ranks of a stage follow each other."""
    parallel = start.config.parallel
    size, timeout_s = parallel.tensor_parallel_size, parallel.distributed_timeout_s
    shard = Shard(start.rank % size, size, parallel.stage_of(start.rank), parallel.pipeline_parallel_size)
    return Place(
        shard,
        group=_group(stage_fd, shard.tensor_rank, size, timeout_s),
        world=_group(world_fd, start.rank, parallel.num_ranks, timeout_s),
    )


def _group(fd: int, rank: int, size: int, timeout_s: float) -> Group:
    return SINGLE if size == 1 else SharedGroup(fd, rank, timeout_s=timeout_s)


def _factory(name: str) -> Callable[..., Worker]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Worker] = getattr(importlib.import_module(module), attribute)
    return found


def digest(step: int, output: StepOutput) -> bytes:
    """What ranks of a stage that did the same agree on, 8 bytes; the tokens are zeros where the last stage samples."""
    return hashlib.blake2b(output.sampled.tobytes(), digest_size=8, key=step.to_bytes(8)).digest()


class Rank:
    """A worker behind a ring. One thread; another one reports forms that were compiled."""

    def __init__(self, start: RankStart, place: Place, connection: Connection, ring: FrameReader) -> None:
        """Load this rank's part of the model and report."""
        self._has_tokens = place.shard.is_last and place.shard.tensor_rank == 0
        self._connection = connection
        self._sending = threading.Lock()
        self._ring = ring
        self._plans = [StepPlan() for _ in range(NUM_PLANS)]
        self._parts = bytearray()  # of the frame of a plan
        self._changes = bytearray()
        progress = self._report_progress
        self._worker = _factory(start.worker_factory)(
            start.config, progress, shard=place.shard, group=place.group, world=place.world
        )
        self._send(RankReady(self._worker.info))

    def run(self) -> None:
        """Run plans until the engine stops it; raises what a plan raises: other ranks may wait within it."""
        try:
            while self._turn():
                pass
        finally:
            self._worker.close()

    def _turn(self) -> bool:
        received = self._ring.read(LONGEST_WAIT_S)
        if received is None:
            return True
        kind, frame = received
        match kind:
            case FrameKind.PLAN:
                self._run_plan(frame)
            case FrameKind.PLAN_PART:
                self._parts += frame
                self._ring.release()
            case FrameKind.CHANGES:
                self._changes += frame
                self._ring.release()
            case FrameKind.TIME:
                shape = decode_shape(frame)
                self._ring.release()
                self._send(RankTimed(self._worker.time_iteration(**shape)))
            case FrameKind.FORM:
                form = decode_form(frame)
                self._ring.release()
                compiled = self._worker.prepare_form(form)
                compiled.add_done_callback(self._report_form)
        return kind != FrameKind.STOP

    def _run_plan(self, frame: memoryview) -> None:
        if self._parts:
            frame = memoryview(self._parts + frame)
            self._parts = bytearray()
        plan = self._plans.pop(0)
        self._plans.append(plan)
        end = LENGTH_BYTES + int.from_bytes(frame[:LENGTH_BYTES], "little")
        self._changes += frame[LENGTH_BYTES:end]
        read_plan(frame, end, plan)
        self._ring.release()
        output = self._worker.execute(plan, self._take_changes())
        self._send(
            RankResult(
                step=plan.step,
                digest=digest(plan.step, output),
                elapsed_s=output.elapsed_s,
                errors=dict(output.errors),
                transfers=transfers_message(output.transfers),
                sampled=output.sampled.tobytes() if self._has_tokens else None,
                logprobs=logprobs_message(output) if self._has_tokens else None,
                prompt_logprobs=dict(output.prompt_logprobs) if self._has_tokens else {},
            )
        )

    def _take_changes(self) -> RequestChanges:
        if not self._changes:
            return NO_CHANGES
        changes = decode_changes(self._changes)
        self._changes = bytearray()
        return changes

    def _report_progress(self, stage: str, done: int, total: int) -> None:
        self._send(RankProgress(stage, int(done), int(total)))

    def _report_form(self, compiled: "Future[object]") -> None:
        if not compiled.cancelled():  # else the rank ends
            self._send(compiled_message(compiled.exception()))

    def _send(self, message: FromRank) -> None:
        with self._sending:
            self._connection.send_bytes(encode(message))
