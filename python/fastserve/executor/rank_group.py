"""The processes of a group of ranks: their start, what they report, how they end."""

import contextlib
import selectors
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from fastserve._C.collective import ExchangeMemory, FrameWriter
from fastserve.config import EngineConfig
from fastserve.errors import DeviceLostError, FastServeError, InternalError
from fastserve.executor.launcher import Launcher
from fastserve.executor.messages import (
    FromRank,
    RankFailed,
    RankProgress,
    RankReady,
    RankStart,
    decode_from_rank,
    start_error,
)
from fastserve.log import get_logger, log_settings
from fastserve.worker.info import Progress, WorkerInfo

logger = get_logger(__name__)

SPARE_SLOTS = 2  # beside the plans under way: room for what goes before one
SLOT_BYTES = 64 << 20  # memory is taken for what is written only
TURN_S = 0.5
SILENCE_LIMIT_S = 4.0
STOP_GRACE_S = 3.0


@dataclass(slots=True)
class _Rank:
    name: str
    pid: int
    connection: Connection
    state: str = "starting"
    info: WorkerInfo | None = None
    beats: int = 0
    heard_s: float = 0.0
    ended: bool = False


class RankGroup:
    """Ranks as processes. One thread of its own receives; everything else is called by one thread.

    The first failure of a rank is that of the group: all its processes are killed.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        launcher: Launcher,
        worker_factory: str,
        on_message: Callable[[int, FromRank], None],
        on_failure: Callable[[FastServeError], None],
    ) -> None:
        """Start the processes; `on_message(rank, message)` and `on_failure` are called in the receiving thread.

        Raises:
            DeviceLostError: they cannot be started.
        """
        parallel = config.parallel
        size = parallel.num_ranks
        num_slots = 1 << (max_plans(config) + SPARE_SLOTS - 1).bit_length()  # a power of two
        self._ring: FrameWriter | None = FrameWriter(num_readers=size, num_slots=num_slots, slot_bytes=SLOT_BYTES)
        # The ranks' own, once they have them.
        stages = [ExchangeMemory(parallel.tensor_parallel_size) for _ in range(parallel.pipeline_parallel_size)]
        world = ExchangeMemory(size)
        self._timeout_s = config.parallel.distributed_timeout_s
        self._launcher = launcher
        self._on_message = on_message
        self._on_failure = on_failure
        self._changed = threading.Condition()
        self._failure: FastServeError | None = None
        self._stopping = False
        self._ranks: list[_Rank] = []
        self._thread = threading.Thread(target=self._receive, name="fastserve-ranks", daemon=True)
        level, json_logs = log_settings()
        try:
            for rank in range(size):
                start = RankStart(config, rank, worker_factory, level, json_logs)
                self._ranks.append(self._start(start, [stages[parallel.stage_of(rank)].fd, world.fd]))
        except BaseException:
            launcher.kill([rank.pid for rank in self._ranks])
            self._close_connections()
            raise
        self._thread.start()

    @property
    def ring(self) -> FrameWriter:
        """For plans, until `stop`."""
        assert self._ring is not None, "the ranks were stopped"
        return self._ring

    @property
    def failure(self) -> FastServeError | None:
        """Why the group has ended; None while it lives."""
        return self._failure

    @property
    def pids(self) -> list[int]:
        """Process ids, by rank."""
        return [rank.pid for rank in self._ranks]

    def wait_ready(self, progress: Progress | None) -> list[WorkerInfo]:
        """Wait until every rank has loaded its part; `progress` is called for what rank 0 does.

        Raises:
            FastServeError: what a rank raised; DeviceLostError when the time limit has passed or a process has ended.
        """
        deadline_s = time.monotonic() + self._timeout_s
        reported = ""
        while True:
            with self._changed:
                if self._failure is not None:
                    raise self._failure
                infos = [rank.info for rank in self._ranks if rank.info is not None]
                if len(infos) == len(self._ranks):
                    return infos
                self._changed.wait(TURN_S)
                state = self._ranks[0].state
            self._check_start(deadline_s)
            if state != reported:
                self._tell(progress, state)
            reported = state

    def stop(self) -> None:
        """Wait for the ranks, which were asked to end, kill those that do not; may be called again."""
        with self._changed:
            self._stopping = True
            self._changed.wait_for(lambda: all(rank.ended for rank in self._ranks), STOP_GRACE_S)
        self._launcher.kill(self.pids)
        self._thread.join(STOP_GRACE_S)
        if self._thread.is_alive():  # the nursery is stopped, or hangs
            self._launcher.kill_nursery()
            self._thread.join()
        self._close_connections()
        self._ring = None  # and its memory

    def fail(self, error: FastServeError) -> None:
        """End the group because of an error; only the first one counts."""
        with self._changed:
            if self._failure is not None:
                return
            self._failure = error
            self._changed.notify_all()
        if not self._stopping:
            logger.error("%s; the ranks end", error)
        self._launcher.kill(self.pids)
        self._on_failure(error)

    def name_of(self, rank: int) -> str:
        """For people."""
        return self._ranks[rank].name

    def _start(self, start: RankStart, exchanges: list[int]) -> _Rank:
        ours, theirs = Pipe()
        with theirs:
            descriptors = [theirs.fileno(), self.ring.fd, *exchanges]
            try:
                pid = self._launcher.fork(start, descriptors, timeout_s=self._timeout_s)
            except BaseException:
                ours.close()
                raise
        parallel = start.config.parallel
        logger.info("rank %d of %d is process %d", start.rank, parallel.num_ranks, pid)
        stage = f"stage {parallel.stage_of(start.rank)}, " if parallel.pipeline_parallel_size > 1 else ""
        return _Rank(f"rank {start.rank} ({stage}process {pid})", pid, ours, heard_s=time.monotonic())

    def _check_start(self, deadline_s: float) -> None:
        if time.monotonic() < deadline_s:
            return
        late = "; ".join(f"{rank.name}: {rank.state}" for rank in self._ranks if rank.info is None)
        raise DeviceLostError(
            f"ranks did not start within {self._timeout_s:g} s (--distributed-timeout-seconds); last state of {late}"
        )

    def _tell(self, progress: Progress | None, state: str) -> None:
        stage, _, share = state.partition(" ")
        done, _, total = share.partition("/")
        if progress is not None and total:
            progress(stage, int(done), int(total))

    def _receive(self) -> None:
        """Body of the thread: until all processes have ended."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._launcher, selectors.EVENT_READ)
            for index, rank in enumerate(self._ranks):
                selector.register(rank.connection, selectors.EVENT_READ, index)
            while not all(rank.ended for rank in self._ranks):
                began_s = time.monotonic()
                for key, _ in selector.select(TURN_S):
                    if key.data is None:
                        self._take_ended()
                    elif not self._take_safely(key.data):
                        selector.unregister(key.fileobj)
                self._watch_beats(began_s)

    def _take_safely(self, index: int) -> bool:
        """As `_take_message`; one that cannot be taken ends the group, not the thread, which sees the ends of ranks."""
        try:
            return self._take_message(index)
        except Exception as error:
            name = self._ranks[index].name
            logger.exception("a message of %s cannot be taken", name)
            self.fail(InternalError(f"a message of {name} cannot be taken: {error}"))
            return True

    def _take_message(self, index: int) -> bool:
        """Read one message of a rank; False when none will come any more."""
        rank = self._ranks[index]
        try:
            message = decode_from_rank(rank.connection.recv_bytes())
        except (EOFError, OSError):
            return False
        match message:
            case RankProgress():
                self._note(rank, f"{message.stage} {message.done}/{message.total}")
            case RankReady():
                rank.info = message.info
                self._note(rank, "ready")
            case RankFailed():
                starts = rank.info is None
                self.fail(
                    start_error(message, rank.name)
                    if starts
                    else DeviceLostError(f"{rank.name} failed: {message.text}")
                )
            case _:
                self._on_message(index, message)
        return True

    def _note(self, rank: _Rank, state: str) -> None:
        with self._changed:
            rank.state = state
            self._changed.notify_all()

    def _take_ended(self) -> None:
        try:
            ended = self._launcher.take_ended()
        except DeviceLostError as error:
            with self._changed:
                for rank in self._ranks:
                    rank.ended = True
                self._changed.notify_all()
            self.fail(error)
            return
        for message in ended:
            index = next((i for i, rank in enumerate(self._ranks) if rank.pid == message.pid), None)
            if index is None:
                continue  # of an earlier group
            rank = self._ranks[index]
            with contextlib.suppress(OSError):
                while rank.connection.poll() and self._take_safely(index):
                    pass
            with self._changed:
                rank.ended = True
                self._changed.notify_all()
            if not (self._stopping and message.status == 0):
                self.fail(DeviceLostError(f"{rank.name} {_how_it_ended(message.status)}"))

    def _watch_beats(self, began_s: float) -> None:
        now_s = time.monotonic()
        was_stopped = now_s - began_s > 2 * TURN_S  # this process, and its ranks perhaps as well
        for index, rank in enumerate(self._ranks):
            beats = self.ring.beats(index)
            if beats != rank.beats or was_stopped or rank.ended:
                rank.beats, rank.heard_s = beats, now_s
            elif now_s - rank.heard_s > SILENCE_LIMIT_S:
                self.fail(DeviceLostError(f"{rank.name} gave no sign of life for {SILENCE_LIMIT_S:g} s"))

    def _close_connections(self) -> None:
        for rank in self._ranks:
            rank.connection.close()


def max_plans(config: EngineConfig) -> int:
    """Plans that may be under way."""
    return max(2, config.parallel.pipeline_parallel_size)


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    number = -status
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"was killed by signal {number}"
