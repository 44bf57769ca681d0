"""A scheduling policy of one's own, for simulations."""

from typing import ClassVar

from fastserve._C.sched import QueuedRequest

__all__ = ["Policy", "QueuedRequest"]


class Policy:
    """Decides the order in which the requests of one simulation run, in place of `--scheduling-policy`.

    The queued request with the smallest `request.key` runs first, among equal keys the one that arrived first; keys are 0
    until they are set, and are set in `join`, `charge` and `promote` only. Every method has a default: as it stands, this
    class is first come, first served. What a method raises ends the simulation. An object serves one simulation.

    Attributes:
        strict_priority: whether a request with a smaller `priority` stands before all with a larger one, whatever the keys.
    """

    strict_priority: ClassVar[bool] = False

    def join(self, request: QueuedRequest, now_s: float) -> None:
        """Take in a new request; also one that comes back, as a new object, after its caller had held it."""

    def leave(self, request: QueuedRequest) -> None:
        """Let go of a request that has ended, or that its caller holds."""

    def charge(self, request: QueuedRequest, iteration_s: float, next_iteration_s: float) -> None:
        """Take note that a request was in an iteration of so many seconds; its next one is predicted to take the others."""

    def promote(self, now_s: float) -> None:
        """Move what has waited for too long. Called before every plan."""

    def may_start(self, request: QueuedRequest) -> bool:
        """Return whether a request without KV may begin beside those that have."""
        return True

    def estimate_s(self, request: QueuedRequest, now_s: float) -> float | None:
        """Return in how many seconds a request will run, by which KV is moved; None: at once if it is the first, else unknown."""
        return None
