"""The outcome of every request, in columns."""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from fastserve.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTable:
    """One row per request in the order of the workload; seconds from the start, NaN for what never happened.

    Attributes:
        arrival_s, first_token_s, finish_s: float64[n].
        prompt_tokens, output_tokens: int64[n]; output as produced, 0 for a refused request.
        preemptions: times it was left out of the batch after it had been in it.
        queue_s: before its first iteration.
        parked_s, host_s, upload_wait_s: not in the batch after that, with its KV on the device, on the host (or on its way
            there), on its way back.
        recomputed_tokens: computed again because their KV was dropped.
        cached_tokens: prompt tokens found in the prefix cache.
        longest_pause_s: between two of its tokens; NaN with a single one.
    """

    arrival_s: np.ndarray
    first_token_s: np.ndarray
    finish_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    cached_tokens: np.ndarray
    preemptions: np.ndarray
    queue_s: np.ndarray
    parked_s: np.ndarray
    host_s: np.ndarray
    upload_wait_s: np.ndarray
    recomputed_tokens: np.ndarray
    longest_pause_s: np.ndarray

    @classmethod
    def of(cls, workload: Workload) -> "RequestTable":
        """A table in which nothing has happened yet."""
        n = len(workload)
        times = {name: np.full(n, np.nan) for name in ("first_token_s", "finish_s", "longest_pause_s")}
        seconds = {name: np.zeros(n) for name in ("queue_s", "parked_s", "host_s", "upload_wait_s")}
        counts = {
            name: np.zeros(n, np.int64)
            for name in ("output_tokens", "cached_tokens", "preemptions", "recomputed_tokens")
        }
        prompt_tokens = workload.prompt_tokens.astype(np.int64)
        return cls(arrival_s=np.array(workload.arrival_s), prompt_tokens=prompt_tokens, **times, **seconds, **counts)

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def is_finished(self) -> np.ndarray:
        """bool[n]: it ran to its end; the others were refused as too long."""
        values: np.ndarray = np.logical_not(np.isnan(self.finish_s))
        return values

    @property
    def e2e_s(self) -> np.ndarray:
        """float64[n]: arrival to last token."""
        values: np.ndarray = np.subtract(self.finish_s, self.arrival_s)
        return values

    @property
    def ttft_s(self) -> np.ndarray:
        """float64[n]: arrival to first token."""
        values: np.ndarray = np.subtract(self.first_token_s, self.arrival_s)
        return values

    @property
    def tpot_s(self) -> np.ndarray:
        """float64[n]: mean time between output tokens after the first; NaN with a single one."""
        gaps = np.where(self.output_tokens > 1, self.output_tokens - 1, np.nan)
        values: np.ndarray = np.divide(self.finish_s - self.first_token_s, gaps)
        return values

    @property
    def normalized_latency_s(self) -> np.ndarray:
        """float64[n]: end-to-end seconds per output token, the paper's measure."""
        return self.e2e_s / np.where(self.output_tokens > 0, self.output_tokens, np.nan)

    def write_csv(self, path: str | Path) -> None:
        """Write one line per request, under the names of the columns; empty where it never came to that."""
        names = [field.name for field in fields(self)]
        columns = [getattr(self, name).tolist() for name in names]
        with Path(path).open("w", encoding="utf-8") as file:
            file.write(",".join(["request", *names]) + "\n")
            for i, row in enumerate(zip(*columns, strict=True)):
                file.write(f"{i}," + ",".join(_cell(value) for value in row) + "\n")


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
