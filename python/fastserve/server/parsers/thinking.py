"""Reasoning between `<think>` and `</think>`, before the content."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastserve.server.parsers.pieces import Content, Piece, Reasoning
from fastserve.server.parsers.source import Reading, Source

BEGIN, END = "<think>", "</think>"
_END_CHARS = 64  # of a prompt: a mark and white space


@dataclass(frozen=True, slots=True)
class Thinking:
    """How a family of models reasons.

    Attributes:
        always: a message begins with reasoning even where neither the prompt nor the message has `<think>`.
    """

    always: bool

    def begun(self, prompt: str, *, continued: bool) -> bool | None:
        """Whether the message begins within reasoning; None = only if it begins with `<think>`.

        Args:
            prompt: its text.
            continued: the message continues the last one of the prompt.
        """
        if continued:
            return prompt.rfind(BEGIN) > prompt.rfind(END)
        end = prompt[-_END_CHARS:].rstrip()
        if end.endswith((BEGIN, END)):
            return end.endswith(BEGIN)
        return True if self.always else None


class ThinkingParser:
    """Splits one message exactly: the marks belong to neither part.

    Attributes:
        is_over: what comes from now on is content.
        begun: the message begins with reasoning; None = not known yet.
    """

    def __init__(self, begun: bool | None) -> None:
        """Begin; `begun`: see `Thinking.begun`."""
        self.is_over = begun is False
        self.begun = begun
        self._source = Source()
        self._pieces: list[Piece] = []
        self._run = self._parse()

    def feed(self, text: str) -> Sequence[Piece]:
        """Return what the text adds."""
        self._source.put(text)
        return self._advance()

    def finish(self) -> Sequence[Piece]:
        """Return what was held back, now that no more text comes."""
        self._source.ended = True
        return self._advance()

    def _advance(self) -> Sequence[Piece]:
        next(self._run, None)
        pieces, self._pieces = self._pieces, []
        return pieces

    def _parse(self) -> Reading[None]:
        source = self._source
        source.record()
        if self.begun is not False:
            yield from source.skip_space()
            if (yield from source.skip(BEGIN)):
                source.record()
                self.begun = True
        self.begun = self.begun is True
        self._put(source.recorded(), reasoning=self.begun)
        while self.begun:
            text, found = source.take_until(END)
            self._put(text, reasoning=True)
            if found or source.ended:
                break
            yield
        self.is_over = True
        while True:
            self._put(source.take_all(), reasoning=False)
            if source.ended:
                return
            yield

    def _put(self, text: str, *, reasoning: bool) -> None:
        if text:
            self._pieces.append(Reasoning(text) if reasoning else Content(text))
