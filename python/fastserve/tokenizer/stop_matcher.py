"""Find stop strings in text that arrives in pieces, wherever the pieces are cut."""

from collections.abc import Sequence


class StopMatcher:
    """Let text through until a stop string is complete; hold back what may be the beginning of one.

    The match is the one that is complete first; of several complete at the same character, the longest. It depends on
    the text only, not on its pieces. Each character costs amortised constant time per stop string (Knuth-Morris-Pratt).
    """

    def __init__(self, stop: Sequence[str]) -> None:
        """Look for these non-empty strings."""
        self._stop = tuple(stop)
        self._failures = [_failure_table(s) for s in self._stop]
        self._first = {s[0] for s in self._stop}
        self._states = [0] * len(self._stop)
        self._held = ""

    def feed(self, text: str, *, honour: bool = True) -> tuple[str, str | None]:
        """Take new text; return what is now certain to precede any stop string, and the stop string if one is complete.

        After a match the matcher is spent. With `honour` false, stop strings complete in this text are let through.
        """
        if not self._held and self._first.isdisjoint(text):
            return text, None
        buffer = self._held + text
        states = self._states
        longest = ""
        for position, character in enumerate(text, start=len(self._held) + 1):
            for i, (stop, failure) in enumerate(zip(self._stop, self._failures, strict=True)):
                state = states[i]
                if state == len(stop):
                    state = failure[state]
                while state and stop[state] != character:
                    state = failure[state]
                states[i] = state = state + (stop[state] == character)
                if honour and state == len(stop) > len(longest):
                    longest = stop
            if longest:
                self._held = ""
                return buffer[: position - len(longest)], longest
        # A whole stop string that was not honoured is plain text now: only a proper prefix is held.
        held = max(
            failure[state] if state == len(stop) else state
            for state, stop, failure in zip(states, self._stop, self._failures, strict=True)
        )
        split = len(buffer) - held
        self._held = buffer[split:]
        return buffer[:split], None

    def flush(self) -> str:
        """Return the text held back; for the end of the output."""
        held, self._held = self._held, ""
        return held


def _failure_table(stop: str) -> list[int]:
    """Entry k: length of the longest proper prefix of `stop` that is a suffix of its first k characters."""
    table = [0] * (len(stop) + 1)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = table[length]
        length += stop[i] == stop[length]
        table[i + 1] = length
    return table
