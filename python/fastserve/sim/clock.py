"""Virtual time: it passes only when a caller waits."""


class VirtualClock:
    """Called, it says the time in seconds, as `time.monotonic` does.

    Attributes:
        now_s: the time.
    """

    __slots__ = ("now_s",)

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def advance_to(self, time_s: float) -> None:
        """Let it be `time_s`, unless it is later already."""
        self.now_s = max(self.now_s, time_s)
