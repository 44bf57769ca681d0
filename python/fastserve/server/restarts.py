"""How often a dead engine may be replaced."""

from collections import deque

WINDOW_S = 600.0
# Before the second restart of a window, twice as long before the third, and so on; the first one comes at once.
PAUSE_S = 1.0


class RestartBudget:
    """Counts restarts over a sliding window; times are monotonic seconds."""

    def __init__(self, most: int) -> None:
        """Allow `most` restarts within WINDOW_S."""
        self._most = most
        self._taken: deque[float] = deque()

    def take(self, now_s: float) -> bool:
        """Count a restart; False, and nothing counted, when there were too many."""
        while self._taken and self._taken[0] <= now_s - WINDOW_S:
            self._taken.popleft()
        if len(self._taken) >= self._most:
            return False
        self._taken.append(now_s)
        return True

    @property
    def pause_s(self) -> float:
        """How long to wait before the restart taken last."""
        return PAUSE_S * max(0, len(self._taken) - 1)
