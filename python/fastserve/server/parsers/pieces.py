"""The parts of a message, in the order in which the model writes them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More of the content."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A tool call begins; the arguments that follow are its own."""

    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the arguments of the call that has begun: JSON, as the model wrote it."""

    text: str


Piece = Reasoning | Content | CallStart | CallArguments
