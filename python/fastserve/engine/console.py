"""The terminal: progress of a start and of a batch run, and an orderly stop on Ctrl-C."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

from tqdm import tqdm

from fastserve.log import get_logger

logger = get_logger(__name__)

LONG_STAGE_S = 1.0  # shorter ones are not worth a line in the log


class StartProgress:
    """Takes the progress of an engine's start: a bar for each stage at a terminal, elsewhere a log line for each long one."""

    def __init__(self, *, terminal: bool | None = None) -> None:
        """Show bars on standard error if `terminal` is true; by default, if standard error is a terminal."""
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._stage: str | None = None
        self._bar: tqdm | None = None
        self._started_s = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """`done` of `total` of a stage: bytes of weights, graphs captured, latency profiles."""
        if stage != self._stage:
            self.close()
            self._begin(stage, total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        if done >= total:
            self._end()

    def close(self) -> None:
        """Close the bar of a stage that did not finish."""
        if self._bar is not None:
            self._bar.close()
        self._stage = self._bar = None

    def _begin(self, stage: str, total: int) -> None:
        self._stage, self._started_s = stage, time.monotonic()
        if self._terminal:
            bytes_or_not = {"unit": "B", "unit_scale": True} if stage == "weights" else {}
            self._bar = tqdm(total=total, desc=stage, dynamic_ncols=True, **bytes_or_not)

    def _end(self) -> None:
        elapsed_s = time.monotonic() - self._started_s
        if not self._terminal and elapsed_s >= LONG_STAGE_S:
            logger.info("%s ready after %.1f s", self._stage, elapsed_s)
        self.close()


class BatchProgress:
    """A bar of finished prompts with the output rate."""

    def __init__(self, num_prompts: int, *, shown: bool) -> None:
        """Count towards `num_prompts`."""
        self._bar = tqdm(total=num_prompts, desc="prompts", unit="prompt", disable=not shown, dynamic_ncols=True)
        self._num_tokens = 0
        self._started_s = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, *, num_tokens: int, num_finished: int) -> None:
        """Count output tokens and finished prompts."""
        self._num_tokens += num_tokens
        if not self._bar.disable:
            rate = self._num_tokens / max(time.monotonic() - self._started_s, 1e-9)
            self._bar.set_postfix_str(f"{rate:.1f} tokens/s", refresh=False)
            self._bar.update(num_finished)


class Interrupt:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self.pressed = False

    def check(self) -> None:
        """Raise KeyboardInterrupt if it was."""
        if self.pressed:
            raise KeyboardInterrupt


@contextmanager
def deferred_interrupt() -> Iterator[Interrupt]:
    """Defer the first Ctrl-C to `Interrupt.check`, so that it never interrupts an engine step.

    The second comes at once. Outside the main thread, or where the program handles SIGINT itself, nothing changes.
    """
    interrupt = Interrupt()
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interrupt
        return

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        interrupt.pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, on_signal)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
