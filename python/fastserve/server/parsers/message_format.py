"""How the messages of one request are written, and what reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastserve.server.parsers.pieces import CallArguments, CallStart, Content, Piece, Reasoning
from fastserve.server.parsers.thinking import ThinkingParser
from fastserve.server.parsers.tool_parser import ToolParser


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageFormat:
    """What to look for in each message of a request.

    Attributes:
        reasons: a message may begin with reasoning.
        begun: see `Thinking.begun`.
        include_reasoning: the client wants to see the reasoning.
        tool_parser: makes what reads calls; None = there are none.
        parallel_calls: the client takes more than one call.
        is_named: the request names the function to call.
        new_id: makes an id for a call.
    """

    reasons: bool = False
    begun: bool | None = None
    include_reasoning: bool = True
    tool_parser: Callable[[], ToolParser] | None = None
    parallel_calls: bool = True
    is_named: bool = False
    new_id: Callable[[], str] = ToolParser.new_id

    @property
    def is_plain(self) -> bool:
        """All text is content."""
        return not self.reasons and self.tool_parser is None


class MessageReader:
    """Reads one message: reasoning first, then content and calls."""

    def __init__(self, form: MessageFormat) -> None:
        self._thinking = ThinkingParser(form.begun) if form.reasons else None
        self._tools = form.tool_parser() if form.tool_parser else None
        self._shows_reasoning = form.include_reasoning
        self._max_calls = None if form.parallel_calls else 1
        self._num_calls = 0

    def read(self, text: str, *, last: bool) -> list[Piece]:
        """Return what the text adds; `last`: no more comes."""
        if self._thinking is None:
            return self._shown(self._read_content(text, last=last))
        pieces: list[Piece] = []
        split = [*self._thinking.feed(text), *(self._thinking.finish() if last else ())]
        for piece in split:
            pieces += self._read_content(piece.text, last=False) if isinstance(piece, Content) else [piece]
        if last:
            pieces += self._read_content("", last=True)
        return self._shown(pieces)

    def _read_content(self, text: str, *, last: bool) -> Sequence[Piece]:
        if self._tools is None:
            return [Content(text)] if text else []
        return [*self._tools.feed(text), *(self._tools.finish() if last else ())]

    def _shown(self, pieces: Sequence[Piece]) -> list[Piece]:
        """Leave out what the client does not want."""
        shown = []
        for piece in pieces:
            self._num_calls += isinstance(piece, CallStart)
            surplus = self._max_calls is not None and self._num_calls > self._max_calls
            hidden = isinstance(piece, Reasoning) and not self._shows_reasoning
            if not hidden and not (surplus and isinstance(piece, CallStart | CallArguments)):
                shown.append(piece)
        return shown
