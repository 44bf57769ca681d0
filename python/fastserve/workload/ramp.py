"""A rate of arrivals that changes from request to request."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from fastserve.errors import InvalidArgumentError

Strategy = Literal["linear", "exponential"]
STRATEGIES = get_args(Strategy)


@dataclass(frozen=True, slots=True, kw_only=True)
class RampUp:
    """From one rate to another over all requests, as `vllm bench serve` means it.

    Attributes:
        strategy: linear = each request adds as much to the rate; exponential = each multiplies it by as much.
        start_rps, end_rps: rates of the first and of the last request, per second.
    """

    strategy: Strategy
    start_rps: float
    end_rps: float

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InvalidArgumentError(f"a ramp must be one of {', '.join(STRATEGIES)}, got {self.strategy!r}")
        if not 0.0 < self.start_rps <= self.end_rps < float("inf"):
            raise InvalidArgumentError(
                "a ramp must start above 0 requests per second and end at no lower rate, got"
                f" {self.start_rps} to {self.end_rps}"
            )

    def rates(self, count: int) -> np.ndarray:
        """The rate at which each request arrives, float64[count] per second."""
        ends = (self.start_rps, self.end_rps)
        return np.linspace(*ends, count) if self.strategy == "linear" else np.geomspace(*ends, count)

    def scaled(self, factor: float) -> "RampUp":
        """The same with all rates times a factor."""
        return replace(self, start_rps=factor * self.start_rps, end_rps=factor * self.end_rps)
