"""Find stop strings in text that arrives in pieces, wherever the pieces are cut."""

from array import array
from collections.abc import Sequence
from functools import lru_cache

# Requests whose stop strings are kept prepared; all completions of a request share one entry.
_NUM_PREPARED = 128


class _StopString:
    """One stop string and its failure table; never changes, so that any number of matchers may share it."""

    __slots__ = ("failure", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.failure = _failure_table(text)

    def advance(self, state: int, text: str, position: int, end: int) -> tuple[int, int]:
        """Read `text[position:end]` up to the first place where the stop string is complete.

        Args:
            state: number of characters of the stop string that the text before `position` ends with.
            text: new text.
            position: where to begin.
            end: where to end.

        Returns:
            The state after what was read, and the position after it.
        """
        stop, failure = self.text, self.failure
        while position < end:
            if state == 0:
                position = text.find(stop[0], position, end)
                if position < 0:
                    return 0, end
            if state == len(stop):
                state = failure[state]
            character = text[position]
            while state and stop[state] != character:
                state = failure[state]
            state += stop[state] == character
            position += 1
            if state == len(stop):
                return state, position
        return state, end

    def held(self, state: int) -> int:
        """How many characters of the text must be held back; a complete stop string is plain text by now."""
        return self.failure[state] if state == len(self.text) else state


class StopMatcher:
    """Let text through until a stop string is complete; hold back what may be the beginning of one.

    The match is the one that is complete first; of several complete at the same character, the longest. It depends on
    the text only, not on its pieces. Each character costs amortised constant time per stop string (Knuth-Morris-Pratt).
    """

    __slots__ = ("_first", "_held", "_states", "_stop")

    def __init__(self, stop: Sequence[str]) -> None:
        """Look for these non-empty strings; matchers of the same strings share what was prepared for them."""
        self._stop, self._first = _prepare(tuple(stop))
        self._states = [0] * len(self._stop)
        self._held = ""

    def feed(self, text: str, *, honour: bool = True) -> tuple[str, str | None]:
        """Take new text; return what is now certain to precede any stop string, and the stop string if one is complete.

        After a match the matcher is spent. With `honour` false, stop strings complete in this text are let through.
        """
        if not self._held and self._first.isdisjoint(text):
            return text, None
        buffer = self._held + text
        found, end = "", len(text)
        for i, stop in enumerate(self._stop):
            state, position = self._states[i], 0
            while position < end:
                state, position = stop.advance(state, text, position, end)
                if honour and state == len(stop.text):
                    if position < end or len(stop.text) > len(found):
                        found = stop.text
                    end = position
            self._states[i] = state
        if found:
            split = len(self._held) + end - len(found)
            self._held = ""
            return buffer[:split], found
        held = max(stop.held(state) for stop, state in zip(self._stop, self._states, strict=True))
        split = len(buffer) - held
        self._held = buffer[split:]
        return buffer[:split], None

    def flush(self) -> str:
        """Return the text held back; for the end of the output."""
        held, self._held = self._held, ""
        return held


@lru_cache(maxsize=_NUM_PREPARED)
def _prepare(stop: tuple[str, ...]) -> tuple[tuple[_StopString, ...], frozenset[str]]:
    """The stop strings with their tables, and the characters that they begin with."""
    return tuple(map(_StopString, stop)), frozenset(text[0] for text in stop)


def _failure_table(stop: str) -> "array[int]":
    """Entry k: length of the longest proper prefix of `stop` that is a suffix of its first k characters."""
    table = array("I", bytes(4 * (len(stop) + 1)))
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = table[length]
        length += stop[i] == stop[length]
        table[i + 1] = length
    return table
