"""Times between the tokens of requests: the longest of each request, and the distribution of all."""

import numpy as np

from fastserve.sim.summary import Distribution

_BINS_PER_OCTAVE = 64  # a percentile is known to 1 %
_SHORTEST_S = 1e-6
_NUM_BINS = 40 * _BINS_PER_OCTAVE  # up to two weeks
_TURNS_KEPT = 256  # until their gaps go into the histogram


class TokenGaps:
    """Follows when the last token of every request came. Memory does not grow with the number of tokens."""

    def __init__(self, longest_s: np.ndarray) -> None:
        """Keep the longest gap of each request in `longest_s`, float64[n], NaN so far."""
        self._longest_s = longest_s
        self._last_s = np.full(len(longest_s), np.nan)
        self._recent: list[np.ndarray] = []
        self._counts = np.zeros(_NUM_BINS, np.int64)
        self._sum_s = 0.0
        self._max_s = 0.0

    def add(self, rows: np.ndarray, now_s: float) -> None:
        """A token of each of `rows`, all different, came now."""
        gaps_s = now_s - self._last_s[rows]  # NaN at the first token
        self._last_s[rows] = now_s
        self._longest_s[rows] = np.fmax(self._longest_s[rows], gaps_s)
        self._recent.append(gaps_s)
        if len(self._recent) == _TURNS_KEPT:
            self._fold()

    def distribution(self) -> Distribution:
        """Of all gaps so far; percentiles are the upper ends of their bins, 1 % wide."""
        self._fold()
        total = int(self._counts.sum())
        if not total:
            return Distribution.of(np.empty(0))
        ranks = np.searchsorted(np.cumsum(self._counts), np.ceil(np.array([0.5, 0.95, 0.99]) * total))
        percentiles = np.minimum(_SHORTEST_S * 2.0 ** ((ranks + 1) / _BINS_PER_OCTAVE), self._max_s)
        p50, p95, p99 = percentiles.tolist()
        return Distribution(self._sum_s / total, p50, p95, p99, self._max_s)

    def _fold(self) -> None:
        if not self._recent:
            return
        gaps_s = np.concatenate(self._recent)
        self._recent.clear()
        gaps_s = gaps_s[~np.isnan(gaps_s)]
        if not gaps_s.size:
            return
        bins = np.log2(np.maximum(gaps_s, _SHORTEST_S) / _SHORTEST_S) * _BINS_PER_OCTAVE
        self._counts += np.bincount(np.minimum(bins.astype(np.int64), _NUM_BINS - 1), minlength=_NUM_BINS)
        self._sum_s += float(gaps_s.sum())
        self._max_s = max(self._max_s, float(gaps_s.max()))
