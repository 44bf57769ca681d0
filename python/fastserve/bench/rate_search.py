"""Find the highest arrival rate within a limit: doubling until it is missed, then bisection on a logarithmic grid."""

import math
from dataclasses import dataclass

from fastserve.errors import InvalidArgumentError


@dataclass(frozen=True, slots=True, kw_only=True)
class RateGrid:
    """Rates to try: min_rate * resolution^k up to max_rate; requests per second.

    Raises:
        InvalidArgumentError: not 0 < min_rate <= max_rate, or the resolution is not in (1, 2].
    """

    min_rate: float
    max_rate: float
    resolution: float = 1.1

    def __post_init__(self) -> None:
        if not 0 < self.min_rate <= self.max_rate < math.inf:
            raise InvalidArgumentError(f"rates must be 0 < min <= max, got {self.min_rate} and {self.max_rate}")
        if not 1.0 < self.resolution <= 2.0:
            raise InvalidArgumentError(f"the resolution must be in (1, 2], got {self.resolution}")

    @property
    def last(self) -> int:
        """Number of the highest rate of the grid."""
        return math.floor(math.log(self.max_rate / self.min_rate) / math.log(self.resolution) + 1e-9)

    @property
    def doubling(self) -> int:
        """Steps of the grid that about double the rate."""
        return max(1, round(math.log(2) / math.log(self.resolution)))

    def rate(self, k: int) -> float:
        """Rate number k."""
        return self.min_rate * self.resolution**k


class RateSearch:
    """One search; ask `next_rate`, measure, `record`, until `next_rate` is None."""

    def __init__(self, grid: RateGrid) -> None:
        self._grid = grid
        self._met = -1  # highest number that met the limit
        self._missed: int | None = None  # lowest that missed it
        self.excess: dict[float, float] = {}

    def next_rate(self) -> float | None:
        """The rate to measure next."""
        number = self._next_number()
        return None if number is None else self._grid.rate(number)

    def record(self, excess: float) -> None:
        """Take the result at the rate proposed last: measured value over limit; above 1 = missed, inf = failed."""
        number = self._next_number()
        assert number is not None, "the search has ended"
        self.excess[self._grid.rate(number)] = excess
        if excess <= 1.0:
            self._met = number
        else:
            self._missed = number

    @property
    def rate(self) -> float:
        """The highest rate within the limit, interpolated between its neighbours on the grid where that is possible.

        0 when the lowest rate missed it; the highest rate of the grid when nothing did (see `is_bounded`).
        """
        if self._met < 0:
            return 0.0
        low = self._grid.rate(self._met)
        if self._missed is None:
            return low
        high = self._grid.rate(self._missed)
        below, above = self.excess[low], self.excess[high]
        if below <= 0 or math.isinf(above):
            return low
        share = -math.log(below) / (math.log(above) - math.log(below))
        rate: float = low * (high / low) ** share
        return rate

    @property
    def is_bounded(self) -> bool:
        """Whether a rate missed the limit; without one the true rate lies above the grid."""
        return self._missed is not None

    def _next_number(self) -> int | None:
        if self._missed is None:
            if self._met == self._grid.last:
                return None
            return 0 if self._met < 0 else min(self._met + self._grid.doubling, self._grid.last)
        if self._missed - self._met <= 1:
            return None
        return (self._met + self._missed) // 2
