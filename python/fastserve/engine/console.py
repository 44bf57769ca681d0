"""What a person at a terminal sees of a batch run: its progress, and that Ctrl-C ends it in good order."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

from tqdm import tqdm


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
    """Let the first Ctrl-C wait for `Interrupt.check`, so that it never comes in the middle of an engine step.

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
