"""A workload through the engine's shipped loop in real time: `EngineLoop`, `EngineCore`, worker; no server, no sockets."""

import os
import time
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastserve._C.sched import StepPlan
from fastserve.config import EngineConfig
from fastserve.engine.core import EngineCore
from fastserve.engine.process import EngineLoop
from fastserve.engine.protocol import Error, Outputs, Shutdown, ToFrontend, encode
from fastserve.engine.request import EngineRequest
from fastserve.sim import RequestTable, Summary
from fastserve.sim.summary import RunCounters, summarize
from fastserve.types import SamplingParams, SchedulingParams
from fastserve.worker.request_changes import RequestChanges
from fastserve.worker.step_output import StepOutput
from fastserve.workload import Workload


@dataclass(frozen=True, slots=True)
class RealRun:
    """What the engine did.

    Attributes:
        requests: one row per request; columns of waits and preemptions are left at 0.
        iterations: float64[n, 8], one row per iteration: when it ended, prefill tokens, prefill pairs, decodes, decode context,
            seconds in the worker, seconds between the end of the one before and its begin (NaN when it was not planned by
            then), blocks that its plan moves.
        correction: mean factor by which the engine corrected its latency model, over iterations.
        foreign_share: of the processors' time that went to others.
    """

    requests: RequestTable
    summary: Summary
    iterations: np.ndarray
    correction: float
    foreign_share: float


class ReplayChannel:
    """The frontend's end and the socket in one: hands requests to the loop at their times, notes when tokens come back."""

    def __init__(self, workload: Workload, vocab_size: int) -> None:
        """Make all messages beforehand."""
        self.table = RequestTable.of(workload)
        self.table.output_tokens[:] = workload.output_tokens
        self._arrival_s = workload.arrival_s.tolist()
        self._messages = [_add_message(workload, i, vocab_size) for i in range(len(workload))]
        self._next = self._num_done = 0
        self.start_s = time.monotonic()

    def receive(self, wait_s: float = 0.0) -> list[bytes]:
        """As EngineChannel.receive: what has come; wait at most this long, in whole milliseconds, for the first."""
        if self._num_done == len(self._messages):
            return [encode(Shutdown())]
        now_s = time.monotonic() - self.start_s
        next_s = self._arrival_s[self._next] if self._next < len(self._arrival_s) else float("inf")
        if wait_s >= 0.001 and next_s > now_s:
            time.sleep(min(int(wait_s * 1000) / 1000, next_s - now_s))
            now_s = time.monotonic() - self.start_s
        first = self._next
        while self._next < len(self._arrival_s) and self._arrival_s[self._next] <= now_s:
            self._next += 1
        return self._messages[first : self._next]

    def send(self, message: ToFrontend) -> None:
        """Note first tokens and ends; the message is encoded as for a socket."""
        encode(message)
        now_s = time.monotonic() - self.start_s
        if isinstance(message, Error):
            raise RuntimeError(f"the engine refused a request: {message.message}")
        if not isinstance(message, Outputs):
            return
        table = self.table
        for output in message.outputs:
            if np.isnan(table.first_token_s[output.request_id]) and output.token_ids:
                table.first_token_s[output.request_id] = now_s
            if output.finish_reason is not None:
                table.finish_s[output.request_id] = now_s
                self._num_done += 1


class _Recorder:
    """Notes shape, time and gap of every iteration as the executor runs it."""

    def __init__(self, core: EngineCore, start_s: float) -> None:
        self._core = core
        self._start_s = start_s
        self._submit = core.executor.submit
        self._rows: list[tuple[float, ...]] = []
        self._corrections: list[float] = []
        self._last_end_s = 0.0
        core.executor.submit = self.submit

    def submit(self, plan: StepPlan, changes: RequestChanges) -> "Future[StepOutput]":
        submitted_s, num_rows = time.monotonic(), plan.num_rows
        facts = (*plan.shape, float(plan.transfer_start[-1]) if plan.num_transfers else 0.0)
        self._corrections.append(self._core.latency.correction)
        future = self._submit(plan, changes)

        def note(done: "Future[StepOutput]") -> None:
            end_s = time.monotonic()
            if num_rows and done.exception() is None:
                elapsed_s = done.result().elapsed_s
                gap_s = end_s - self._last_end_s - elapsed_s if submitted_s < self._last_end_s else float("nan")
                self._rows.append((end_s - self._start_s, *facts[:4], elapsed_s, gap_s, facts[4]))
            self._last_end_s = end_s

        future.add_done_callback(note)
        return future

    def stop(self) -> tuple[np.ndarray, float]:
        """Iterations as of RealRun, and the mean correction."""
        self._core.executor.submit = self._submit
        return np.array(self._rows).reshape(-1, 8), float(np.exp(np.mean(np.log(self._corrections))))


def replay(workload: Workload, config: EngineConfig) -> RealRun:
    """Load the engine and run the workload on it in real time."""
    core = EngineCore.from_config(config)
    try:
        _warm_up(core)
        channel = ReplayChannel(workload, core.info.vocab_size)
        busy = _BusyTime()
        recorder = _Recorder(core, channel.start_s)
        EngineLoop(core, channel, os.getppid()).run()
        iterations, correction = recorder.stop()
        counters = RunCounters.of(core)
        foreign_share = busy.foreign_share()
    finally:
        core.close()
    return RealRun(channel.table, summarize(channel.table, counters), iterations, correction, foreign_share)


class _BusyTime:
    """Processor time of all processes since it was made, against that of this one."""

    def __init__(self) -> None:
        self._start = self._now()

    def foreign_share(self) -> float:
        """Of all processors' time."""
        busy_s, total_s, own_s = (now - start for now, start in zip(self._now(), self._start, strict=True))
        return max(0.0, busy_s - own_s) / total_s

    def _now(self) -> tuple[float, float, float]:
        line = Path("/proc/stat").read_text().split("\n", 1)[0]
        ticks = [int(value) for value in line.split()[1:9]]  # user nice system idle iowait irq softirq steal
        per_s = os.sysconf("SC_CLK_TCK")
        total = sum(ticks)
        return (total - ticks[3] - ticks[4]) / per_s, total / per_s, time.process_time()


def _warm_up(core: EngineCore) -> None:
    """Touch weights and buffers; what this writes into the KV pool belongs to no request."""
    for _ in range(3):
        core.executor.time_iteration(
            prefill_tokens=64, prefill_ctx=0, num_decodes=min(8, core.info.max_num_seqs - 1), decode_ctx=64
        )


def _add_message(workload: Workload, i: int, vocab_size: int) -> bytes:
    sampling = SamplingParams(temperature=0.0, max_tokens=int(workload.output_tokens[i]), ignore_eos=True)
    prompt = workload.prompt_ids(i, vocab_size)
    return encode(EngineRequest.of(i, prompt.tolist(), sampling, SchedulingParams(priority=int(workload.priority[i]))))
