"""Request lengths from CSV traces: columns input_tokens,output_tokens or ContextTokens,GeneratedTokens."""

import csv
from pathlib import Path

import numpy as np

from bench.serving.load import TimedRequest, poisson_arrivals

_COLUMNS = (("input_tokens", "output_tokens"), ("ContextTokens", "GeneratedTokens"))


def read_lengths(path: Path) -> np.ndarray:
    """int64[n, 2]: prompt and output tokens of every row.

    Raises:
        ValueError: unknown columns, or a row that holds no two positive integers; names file and line.
    """
    with path.open(newline="") as lines:
        rows = csv.DictReader(lines)
        names = next((pair for pair in _COLUMNS if set(pair) <= set(rows.fieldnames or ())), None)
        if names is None:
            raise ValueError(f"{path}:1: expected columns {' or '.join(map(str, _COLUMNS))}, got {rows.fieldnames}")
        lengths = []
        for row in rows:
            try:
                lengths.append((int(row[names[0]]), int(row[names[1]])))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}:{rows.line_num}: expected two integers in {names}, got {row}") from error
    return np.array(lengths, np.int64)


def trace_load(lengths: np.ndarray, *, scale: float, rate: float, count: int, vocab_size: int, max_tokens: int,
               seed: int) -> list[TimedRequest]:  # fmt: skip
    """Poisson arrivals with lengths drawn from a trace, scaled, each at least 1 and together at most `max_tokens`."""
    rng = np.random.default_rng(seed)
    arrivals = poisson_arrivals(rate, count, rng)
    drawn = np.maximum(np.rint(lengths[rng.integers(0, len(lengths), count)] * scale).astype(np.int64), 1)
    requests = []
    for arrival_s, (prompt, output) in zip(arrivals, drawn, strict=True):
        prompt = min(int(prompt), max_tokens - 1)  # noqa: PLW2901
        ids = tuple(rng.integers(3, vocab_size, prompt).tolist())
        requests.append(TimedRequest(float(arrival_s), ids, min(int(output), max_tokens - prompt)))
    return requests
