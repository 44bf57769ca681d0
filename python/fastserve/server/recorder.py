"""Writes the requests of a server to a trace that benchmarks and the simulator replay."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from fastserve.config import ServerConfig
from fastserve.errors import InvalidArgumentError
from fastserve.log import get_logger
from fastserve.workload import TurnMatcher, trace_header, trace_line

logger = get_logger(__name__)


class Recorder:
    """A CSV in the format of docs/workloads.md, one line per sequence that has ended; used from the event loop only."""

    def __init__(self, path: str, *, prompts: bool) -> None:
        """Create the file and write its first line; times count from now.

        Args:
            path: must not hold a request yet; readable by its owner alone when it is created.
            prompts: write the token ids of prompts as well.
        Raises:
            InvalidArgumentError: the file cannot be written, or holds something.
        """
        self._prompts = prompts
        self._turns = TurnMatcher()
        self._start_s = time.monotonic()
        self._path = Path(path)
        header = trace_header(prompts=prompts)
        try:
            self._file = open(self._path, "a+", encoding="utf-8", opener=_open_private)  # noqa: SIM115 - held open
            self._file.seek(0)
            # A server that did not get as far as listening leaves a first line.
            if self._file.read(len(header) + 1) not in ("", header):
                self._file.close()
                raise InvalidArgumentError(f"--record must name a new file, but {path} holds something; name another")
            self._file.truncate(0)
            self._write(header)
        except OSError as error:
            raise InvalidArgumentError(f"--record {path} cannot be written: {error.strerror}") from None

    @classmethod
    def of(cls, config: ServerConfig) -> Self | None:
        """The recorder asked for, if any; raises as `__init__`, or when prompts are to be recorded without a file."""
        if config.record is not None:
            return cls(config.record, prompts=config.record_prompts)
        if config.record_prompts:
            raise InvalidArgumentError("--record-prompts needs a file; name one with --record")
        return None

    def record(self, arrival_s: float, prompt_ids: Sequence[int], output_ids: Sequence[int], *, priority: int) -> None:
        """Write one sequence; one without output is left out.

        A file that can no longer be written ends the recording, with a warning, and nothing else.

        Args:
            arrival_s: monotonic time at which its request came.
            prompt_ids, output_ids: its tokens.
            priority: of the request.
        """
        if self._file.closed or not output_ids:
            return
        since_s = round(arrival_s - self._start_s, 6)
        conversation = self._turns.end_turn(since_s, prompt_ids, output_ids)
        values: list[object] = [since_s, len(prompt_ids), len(output_ids), priority, conversation]
        line = trace_line(values, prompt_ids=prompt_ids if self._prompts else None)
        try:
            self._write(line)
        except OSError as error:
            logger.warning("recording to %s has ended: %s", self._path, error)
            self.close()

    def close(self) -> None:
        """End the recording; may be called again."""
        try:
            self._file.close()
        except OSError as error:  # what could not be written before cannot be written now
            logger.warning("recording to %s ends with a loss: %s", self._path, error)

    def _write(self, line: str) -> None:
        self._file.write(line)
        self._file.flush()


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
