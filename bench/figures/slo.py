"""The request rate that a system bears."""

from collections.abc import Sequence


def rate_at_slo(rates: Sequence[float], latencies_s: Sequence[float], slo_s: float) -> float | None:
    """The rate at which a latency first passes a limit, between two rates on a straight line.

    Args:
        rates: requests per second, ascending.
        latencies_s: at these rates.
    Returns:
        None when the limit is not passed; the first rate when it is passed there already.
    Source: the paper's metric, rate at a limit of 0.3 s per token.
    """
    former = None
    for rate, latency_s in zip(rates, latencies_s, strict=True):
        if latency_s > slo_s:
            if former is None:
                return rate
            rate_0, latency_0 = former
            return rate_0 + (rate - rate_0) * (slo_s - latency_0) / (latency_s - latency_0)
        former = (rate, latency_s)
    return None
