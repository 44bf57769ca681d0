"""Synthetic request lengths: uniform around a length (which may be fixed), or log-normal with a given mean."""

import numpy as np

from fastserve.errors import InvalidArgumentError
from fastserve.workload.workload import MAX_TOKENS


def uniform_lengths(length: int, count: int, rng: np.random.Generator, *, range_ratio: float = 0.0) -> np.ndarray:
    """Lengths, int64[count], uniform in [length * (1 - r), length * (1 + r)], at least 1; r = 0: all the same.

    Raises:
        InvalidArgumentError: length is below 1, or range_ratio is not in [0, 1).
    """
    _require_mean(length)
    if not 0.0 <= range_ratio < 1.0:
        raise InvalidArgumentError(f"the range ratio of lengths must be in [0, 1), got {range_ratio}")
    low = max(1, int(np.floor(length * (1.0 - range_ratio))))
    return rng.integers(low, int(np.ceil(length * (1.0 + range_ratio))), count, endpoint=True)


def lognormal_lengths(mean: float, count: int, rng: np.random.Generator, *, sigma: float = 1.0) -> np.ndarray:
    """Lengths, int64[count], log-normal with this mean before rounding, at least 1.

    Args:
        mean: of the lengths themselves, not of their logarithms.
        count: how many.
        rng: source of chance.
        sigma: standard deviation of the logarithms; 0 = all the same.
    Raises:
        InvalidArgumentError: mean is below 1, or sigma is not in [0, 5].
    """
    _require_mean(mean)
    if not 0.0 <= sigma <= 5.0:
        raise InvalidArgumentError(f"sigma of log-normal lengths must be in [0, 5], got {sigma}")
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, count)
    return np.clip(np.rint(drawn), 1, MAX_TOKENS).astype(np.int64)


def _require_mean(length: float) -> None:
    if not 1 <= length < MAX_TOKENS:
        raise InvalidArgumentError(f"lengths must be at least 1 token, got {length}")
