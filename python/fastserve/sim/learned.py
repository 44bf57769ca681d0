"""What the policy `learned` knew about output lengths at the end of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LengthStep:
    """From this many output tokens on, a request without prefill left is in this level (0 = the first)."""

    tokens: int
    level: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthClass:
    """One class of requests.

    Attributes:
        key: of the class.
        num_observations: ends seen.
        quantiles: (share, output tokens), ascending; none before anything is learned.
        steps: ascending.
    """

    key: int
    num_observations: int
    quantiles: tuple[tuple[float, float], ...]
    steps: tuple[LengthStep, ...]


def length_classes(views: Sequence[Mapping[str, Any]]) -> tuple[LengthClass, ...]:
    """From `Scheduler.length_classes`."""
    return tuple(
        LengthClass(
            key=view["length_class"],
            num_observations=view["num_observations"],
            quantiles=tuple(view["quantiles"].items()),
            steps=tuple(LengthStep(step["tokens"], step["level"]) for step in view["levels"]),
        )
        for view in views
    )
