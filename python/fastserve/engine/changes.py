"""Changes of the workers' request tables, collected until a plan carries them."""

import numpy as np

from fastserve.worker.request_changes import NO_CHANGES, RequestChanges, RequestStart


class PendingChanges:
    """Collects the changes; never holds more than there are slots, however long no plan is submitted."""

    def __init__(self) -> None:
        self._started: dict[int, RequestStart] = {}
        self._ended: list[int] = []
        self._is_first = True

    def start(self, start: RequestStart) -> None:
        """A request joined."""
        self._started[start.slot] = start

    def end(self, slots: np.ndarray) -> None:
        """Note that the requests in these slots (int32) have ended; a slot that no worker has seen is not freed there."""
        for slot in slots.tolist():
            if self._started.pop(slot, None) is None:
                self._ended.append(slot)

    def take(self) -> RequestChanges:
        """Return the changes since the last call."""
        if not self._started and not self._ended and not self._is_first:
            return NO_CHANGES
        changes = RequestChanges(tuple(self._started.values()), tuple(self._ended), self._is_first)
        self._started.clear()
        self._ended.clear()
        self._is_first = False
        return changes
