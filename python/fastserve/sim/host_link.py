"""Copies over the link between device and host: one at a time in each direction, both directions at once for a price."""

import math
from collections import deque
from dataclasses import dataclass

from fastserve.sim.devices import HostLink

_DECAY = 0.8  # of the rate's memory per copy, as the engine's own meter
_SHORTEST_S = 1e-9  # less work than this is none: a clock of a million seconds is no finer


@dataclass(slots=True)
class Copy:
    """A transfer on its way, and in the end when it began and ended.

    Attributes:
        work_s: time it still needs with the link to itself.
    """

    id: int
    to_host: bool
    num_bytes: float
    work_s: float
    began_s: float = 0.0
    ended_s: float = 0.0


class _Lane:
    """One direction."""

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.copies: deque[Copy] = deque()
        self._bytes = 0.0
        self._seconds = 0.0

    def measured_bytes_per_s(self) -> float:
        return self._bytes / self._seconds if self._bytes else self.bytes_per_s

    def end_first(self, now_s: float) -> Copy:
        copy = self.copies.popleft()
        copy.ended_s = now_s
        self._bytes = _DECAY * self._bytes + copy.num_bytes
        self._seconds = _DECAY * self._seconds + max(now_s - copy.began_s, 1e-9)
        if self.copies:
            self.copies[0].began_s = now_s
        return copy


class SimulatedLink:
    """The caller gives the time, which never goes back. While both directions are busy, each keeps `duplex_share` of its rate."""

    def __init__(self, link: HostLink, num_devices: int = 1) -> None:
        """Describe a link; each of `num_devices` devices has one and carries its share of every block."""
        self._share = link.duplex_share
        self._overhead_s = link.copy_overhead_s
        self._upload = _Lane(link.upload_bytes_per_s * num_devices)
        self._offload = _Lane(link.offload_bytes_per_s * num_devices)
        self._lanes = (self._upload, self._offload)
        self._now_s = 0.0
        self._ended: list[Copy] = []

    @property
    def is_busy(self) -> bool:
        """Whether a copy is on its way, or has ended and was not taken."""
        return bool(self._upload.copies or self._offload.copies or self._ended)

    def start(self, now_s: float, copy_id: int, num_bytes: float, *, to_host: bool) -> None:
        """Queue a copy after those of the same direction."""
        self.advance(now_s)
        lane = self._offload if to_host else self._upload
        work_s = self._overhead_s + num_bytes / lane.bytes_per_s
        lane.copies.append(Copy(copy_id, to_host, num_bytes, work_s, began_s=self._now_s))

    def advance(self, now_s: float) -> None:
        """Let time pass."""
        while self._now_s < now_s:
            speed, work_s = self._pace()
            time_s = min(now_s, self._now_s + work_s / speed)
            done_s = (time_s - self._now_s) * speed
            self._now_s = time_s
            for lane in self._lanes:
                if not lane.copies:
                    continue
                head = lane.copies[0]
                head.work_s -= done_s
                if head.work_s <= _SHORTEST_S:
                    self._ended.append(lane.end_first(time_s))

    def advance_to_first_end(self, limit_s: float) -> float:
        """Let time pass until a copy has ended, at most until `limit_s`; return the time."""
        if not self._ended:
            speed, work_s = self._pace()
            self.advance(min(limit_s, self._now_s + work_s / speed))
        return self._now_s

    def take_ended(self) -> list[Copy]:
        """The copies that ended and were not taken yet, in the order of their ends."""
        ended, self._ended = self._ended, []
        return ended

    def measured_bytes_per_s(self, *, to_host: bool) -> float:
        """Rate of recent copies, as an engine would measure it."""
        return (self._offload if to_host else self._upload).measured_bytes_per_s()

    def _pace(self) -> tuple[float, float]:
        """Speed at which the heads are worked on, and the work until the first of them ends; infinite without one."""
        uploads, offloads = self._upload.copies, self._offload.copies
        if uploads and offloads:
            return self._share, min(uploads[0].work_s, offloads[0].work_s)
        if uploads or offloads:
            return 1.0, (uploads or offloads)[0].work_s
        return 1.0, math.inf
