"""What a parser makes of a text, gathered."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field

from fastserve.server.parsers.pieces import CallArguments, CallStart, Content, Piece, Reasoning


@dataclass
class Gathered:
    """A message in parts; calls are (name, arguments)."""

    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    reasoning: str = ""

    def add(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            match piece:
                case Reasoning(text):
                    self.reasoning += text
                case Content(text):
                    self.content += text
                case CallStart(name):
                    self.calls.append((name, ""))
                case CallArguments(text):
                    name, arguments = self.calls[-1]
                    self.calls[-1] = (name, arguments + text)


def gather(parser, texts: Iterable[str]) -> Gathered:
    """Feed the texts, then the end."""
    message = Gathered()
    for text in texts:
        message.add(parser.feed(text))
    message.add(parser.finish())
    return message


def cuts(text: str, *places: int) -> list[str]:
    """The text in pieces."""
    ends = [0, *sorted(places), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(ends)]
