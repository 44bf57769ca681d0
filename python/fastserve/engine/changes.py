"""Changes of the workers' request tables, until a plan takes them along."""

import numpy as np

from fastserve.worker.request_changes import NO_CHANGES, RequestChanges, RequestStart


class PendingChanges:
    """Collects them; holds no more than there are slots, however long no plan is submitted."""

    def __init__(self) -> None:
        self._started: dict[int, RequestStart] = {}
        self._ended: list[int] = []
        self._is_first = True

    def start(self, start: RequestStart) -> None:
        """A request joined."""
        self._started[start.slot] = start

    def end(self, slots: np.ndarray) -> None:
        """Requests in these slots have ended, int32; a worker that never heard of one need not free it."""
        for slot in slots.tolist():
            if self._started.pop(slot, None) is None:
                self._ended.append(slot)

    def take(self) -> RequestChanges:
        """What has come together since the last call."""
        if not self._started and not self._ended and not self._is_first:
            return NO_CHANGES
        changes = RequestChanges(tuple(self._started.values()), tuple(self._ended), self._is_first)
        self._started.clear()
        self._ended.clear()
        self._is_first = False
        return changes
