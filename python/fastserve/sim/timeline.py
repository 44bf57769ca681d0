"""A run as a trace of events for Perfetto or chrome://tracing: iterations, levels, copies."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self, TextIO

from fastserve._C.sched import SchedulerStats, StepPlan
from fastserve.sim.host_link import Copy

_ITERATIONS, _OFFLOADS, _UPLOADS = 1, 2, 3
_NAMES = {_ITERATIONS: "iterations", _OFFLOADS: "device to host", _UPLOADS: "host to device"}


class Timeline:
    """Writes events as they come. Times of the format are microseconds."""

    def __init__(self, path: str | Path, name: str = "fastserve simulate") -> None:
        """Begin a file; close it, or use the timeline as a context."""
        self._file: TextIO = Path(path).open("w", encoding="utf-8")  # noqa: SIM115  closed by close()
        self._file.write("[")
        self._separator = "\n"
        self._write({"ph": "M", "name": "process_name", "pid": 1, "args": {"name": name}})
        for track, label in _NAMES.items():
            self._write({"ph": "M", "name": "thread_name", "pid": 1, "tid": track, "args": {"name": label}})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish the file; may be called again."""
        if not self._file.closed:
            self._file.write("\n]\n")
            self._file.close()

    def add(self, plan: StepPlan, start_s: float, end_s: float, copies: list[Copy], stats: SchedulerStats) -> None:
        """An iteration that ended, the copies that ended by then, and the scheduler's state."""
        if plan.num_rows:
            self._iteration(plan, start_s, end_s)
            levels = {f"Q{level + 1}": count for level, count in enumerate(stats.level_requests)}
            self._counter("requests per level", end_s, levels)
            self._counter("KV usage", end_s, {"device": stats.device_usage, "host": stats.host_usage})
        for copy in copies:
            self._copy(copy)

    def _iteration(self, plan: StepPlan, start_s: float, end_s: float) -> None:
        prefill_tokens, _, num_decodes, decode_ctx = plan.shape
        args = {
            "step": plan.step,
            "decodes": int(num_decodes),
            "decode context": int(decode_ctx),
            "prefill tokens": int(prefill_tokens),
            "requests": plan.request_ids.tolist(),
        }
        name = "decode" if not prefill_tokens else "prefill" if not num_decodes else "mixed"
        self._complete(_ITERATIONS, name, start_s, end_s, args)

    def _copy(self, copy: Copy) -> None:
        track = _OFFLOADS if copy.to_host else _UPLOADS
        self._complete(track, _NAMES[track], copy.began_s, copy.ended_s, {"id": copy.id, "bytes": int(copy.num_bytes)})

    def _complete(self, track: int, name: str, start_s: float, end_s: float, args: dict[str, object]) -> None:
        self._write(
            {
                "ph": "X",
                "name": name,
                "pid": 1,
                "tid": track,
                "ts": start_s * 1e6,
                "dur": (end_s - start_s) * 1e6,
                "args": args,
            }
        )

    def _counter(self, name: str, time_s: float, values: Mapping[str, float]) -> None:
        self._write({"ph": "C", "name": name, "pid": 1, "ts": time_s * 1e6, "args": values})

    def _write(self, event: dict[str, object]) -> None:
        self._file.write(self._separator + json.dumps(event))
        self._separator = ",\n"
