"""Arrival times: Poisson, bursty and even ones, and those of conversations, whose turns wait for a reader."""

import numpy as np

from fastserve.errors import InvalidArgumentError


def gamma_arrivals(rate: float, count: int, rng: np.random.Generator, *, burstiness: float = 1.0) -> np.ndarray:
    """Arrival times, float64[count] seconds, whose gaps are gamma-distributed around 1 / rate.

    Args:
        rate: arrivals per second; inf = all at once.
        count: how many.
        rng: source of chance.
        burstiness: shape of the gaps as `vllm bench serve` means it: 1 = Poisson, below 1 bursts, above 1 more even.
    Raises:
        InvalidArgumentError: rate or burstiness is not above 0.
    """
    _require_rate(rate)
    if not 0.0 < burstiness < np.inf:
        raise InvalidArgumentError(f"burstiness must be above 0 and finite, got {burstiness}")
    if np.isinf(rate):
        return np.zeros(count)
    return np.cumsum(rng.gamma(burstiness, 1.0 / (rate * burstiness), count))


def poisson_arrivals(rate: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Arrival times, float64[count] seconds, of a Poisson process; as `gamma_arrivals`."""
    return gamma_arrivals(rate, count, rng)


def fixed_arrivals(rate: float, count: int) -> np.ndarray:
    """Arrival times, float64[count] seconds: 0, 1 / rate, 2 / rate and so on; raises as `gamma_arrivals`."""
    _require_rate(rate)
    return np.arange(count) / rate


def replayed_arrivals(arrival_s: np.ndarray, *, speed: float = 1.0) -> np.ndarray:
    """Recorded times from the first of them on, `speed` times as fast.

    Raises:
        InvalidArgumentError: speed is not above 0.
    """
    if not 0.0 < speed < np.inf:
        raise InvalidArgumentError(f"the speed of a replay must be above 0 and finite, got {speed}")
    times_s: np.ndarray = (arrival_s - arrival_s[:1]) / speed
    return times_s


def turn_arrivals(
    start_s: np.ndarray, turn: np.ndarray, rng: np.random.Generator, *, think_time_s: float
) -> np.ndarray:
    """Arrival times of turns: each exponentially distributed think time after the turn before it.

    Args:
        start_s: float64[n], when the conversation of each row starts.
        turn: int64[n], 0 for its first turn; the rows of a conversation follow each other in order.
        rng: source of chance.
        think_time_s: mean time between two turns, which includes that of the answer.
    Returns:
        float64[n], in the order of the rows, not yet of time.
    """
    if not 0.0 <= think_time_s < np.inf:
        raise InvalidArgumentError(f"think_time_s must be at least 0 and finite, got {think_time_s}")
    gaps = np.where(turn > 0, rng.exponential(think_time_s, len(turn)), 0.0)
    waited = np.cumsum(gaps)
    rows = np.arange(len(turn))
    first = np.maximum.accumulate(np.where(turn == 0, rows, 0))
    times_s: np.ndarray = start_s + waited - waited[first]
    return times_s


def _require_rate(rate: float) -> None:
    if not rate > 0.0:
        raise InvalidArgumentError(f"the arrival rate must be above 0 requests per second, got {rate}")
