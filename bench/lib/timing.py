"""Timing of contenders against each other: warm-up, interleaved rounds, median and spread."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Thread pools spin for a while after their last loop; a pause lets the previous contender leave the cores.
_SETTLE_S = 0.005


@dataclass(frozen=True, slots=True)
class Samples:
    """Seconds per call, one sample per round, in the order taken."""

    seconds: tuple[float, ...]

    @property
    def median_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median; 0 for a single sample."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (high - low) / self.median_s


def interleave(contenders: Mapping[str, Callable[[], object]], *, rounds: int, sample_s: float) -> dict[str, Samples]:
    """Time every contender once per round, so that a busy machine is equally unkind to all.

    Args:
        contenders: name to a call without arguments.
        rounds: samples per contender.
        sample_s: how long one sample lasts about; short calls are repeated inside it.
    """
    calls = {name: _calls_per_sample(call, sample_s) for name, call in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            time.sleep(_SETTLE_S)
            call()
            seconds[name].append(_time_calls(call, calls[name]))
    return {name: Samples(tuple(samples)) for name, samples in seconds.items()}


def _calls_per_sample(call: Callable[[], object], sample_s: float) -> int:
    call()
    return max(1, round(sample_s / max(min(_time_calls(call, 3) for _ in range(2)), 1e-9)))


def _time_calls(call: Callable[[], object], calls: int) -> float:
    start_s = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start_s) / calls
