"""A progress bar on standard error if that is a terminal."""

import sys
from typing import Self

from tqdm import tqdm

from fastserve.bench.result import RequestResult


class Progress:
    """Counts finished requests and their output tokens."""

    def __init__(self, num_requests: int) -> None:
        self._bar = tqdm(total=num_requests, unit="req", disable=not sys.stderr.isatty(), dynamic_ncols=True)
        self._tokens = 0
        self._failed = 0

    def add(self, result: RequestResult) -> None:
        """Take one result."""
        self._tokens += result.output_tokens
        self._failed += bool(result.error)
        self._bar.set_postfix_str(f"{self._tokens} tokens, {self._failed} failed", refresh=False)
        self._bar.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
