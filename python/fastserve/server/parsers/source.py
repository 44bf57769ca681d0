"""Text that arrives in pieces, for parsers that are generators: they yield where they need more of it."""

import re
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]

_SPACE = re.compile(r"\s*")


class Source:
    """What has arrived and is not read yet; a record keeps what was read since `record` until it is dropped.

    Attributes:
        ended: no more text will come.
    """

    def __init__(self) -> None:
        self.ended = False
        self._text = ""
        self._at = 0
        self._kept: list[str] | None = None

    def put(self, text: str) -> None:
        """Add what has arrived."""
        self._text = self._text[self._at :] + text
        self._at = 0

    def take(self, pattern: re.Pattern[str]) -> str:
        """Read what matches at this place, of what has arrived."""
        found = pattern.match(self._text, self._at)
        return self._read(found.end() - self._at) if found else ""

    def take_all(self) -> str:
        """Read all that has arrived."""
        return self._read(len(self._text) - self._at)

    def take_char(self) -> str:
        """Read the next character, which must have arrived."""
        return self._read(1)

    def peek(self) -> Reading[str]:
        """The next character; "" at the end."""
        while self._at == len(self._text) and not self.ended:
            yield
        return self._text[self._at : self._at + 1]

    def skip_space(self) -> Reading[str]:
        """Read white space; returns the character after it, as `peek`."""
        while True:
            self.take(_SPACE)
            char = yield from self.peek()
            if not char.isspace():
                return char

    def skip(self, word: str) -> Reading[bool]:
        """Read `word` if it comes next; returns whether it does."""
        while len(self._text) - self._at < len(word) and not self.ended:
            if not word.startswith(self._text[self._at :]):
                return False
            yield
        if self._text.startswith(word, self._at):
            self._read(len(word))
            return True
        return False

    def take_until(self, word: str) -> tuple[str, bool]:
        """Read up to `word`, and it; returns what stands before it, of what has arrived, and whether it was found.

        An end that may be the beginning of `word` is left.
        """
        place = self._text.find(word, self._at)
        if place >= 0:
            text = self._read(place - self._at)
            self._read(len(word))
            return text, True
        left = len(self._text) - self._at
        keep = 0 if self.ended else min(left, len(word) - 1)
        while keep and not word.startswith(self._text[len(self._text) - keep :]):
            keep -= 1
        return self._read(left - keep), False

    def record(self, text: str = "") -> None:
        """Keep `text` and what is read from now on."""
        self._kept = [text]

    def recorded(self) -> str:
        """What was kept; the record ends."""
        kept, self._kept = self._kept, None
        return "".join(kept or ())

    def _read(self, count: int) -> str:
        text = self._text[self._at : self._at + count]
        self._at += count
        if self._kept is not None:
            self._kept.append(text)
        return text
