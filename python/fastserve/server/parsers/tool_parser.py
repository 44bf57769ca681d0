"""The base of the parsers of tool calls."""

import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fastserve.server.parsers.json_text import decoded_text, object_text
from fastserve.server.parsers.pieces import CallArguments, CallStart, Content, Piece
from fastserve.server.parsers.source import Reading, Source

# As much as is clear at once: the rest of a string up to its end; strings, pairs of brackets and all up to the next one.
_IN_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_IN_BRACKETS = re.compile(r'(?:[^"{}\[\]]+|"[^"\\]*(?:\\.[^"\\]*)*"|[{\[][^"{}\[\]]*[}\]])+', re.DOTALL)
_OPENING = re.compile(r"[{\[]+")
_SCALAR = re.compile(r"[^\s,}\]]+")


@dataclass(frozen=True, slots=True)
class CallTag:
    """How a format writes a call: `begin`, the arguments, `end`; `trigger` is how `begin` begins, whatever the function."""

    trigger: str
    begin: str
    end: str


class ToolParser(ABC):
    """Takes the text of one message apart; a call is a JSON object with a name and arguments.

    The arguments are passed on while they arrive. What turns out to be no call is content, as it was written. White
    space next to a call belongs to the format.

    Attributes:
        marks: words of the format that a tokenizer may have as special tokens.
    """

    marks: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._source = Source()
        self._pieces: list[Piece] = []
        self._blank = ""  # white space that is content only if no call follows
        self._after_call = False  # nothing but white space has come since a call
        self._run = self._parse()

    def feed(self, text: str) -> Sequence[Piece]:
        """Return what the text adds."""
        self._source.put(text)
        return self._advance()

    def finish(self) -> Sequence[Piece]:
        """Return what was held back, now that no more text comes."""
        self._source.ended = True
        pieces = [*self._advance()]
        if self._blank and not self._after_call:
            pieces.append(Content(self._blank))
        return pieces

    @classmethod
    def tag(cls, name: str) -> CallTag | None:
        """How a call of this function is written; None = in more than one way."""
        return None

    @classmethod
    def new_id(cls) -> str:
        """An id for a call."""
        return f"call_{uuid.uuid4().hex[:24]}"

    @abstractmethod
    def _parse(self) -> Reading[None]:
        """Read the source to its end."""

    def _advance(self) -> Sequence[Piece]:
        next(self._run, None)
        pieces, self._pieces = self._pieces, []
        return pieces

    def _content(self, text: str) -> None:
        text = self._blank + text
        body = text.rstrip()
        self._blank = text[len(body) :]
        if body:
            self._after_call = False
            self._pieces.append(Content(body))

    def _content_until(self, mark: str) -> Reading[bool]:
        """Pass on content up to the mark, which is read; returns whether there is one."""
        while True:
            text, found = self._source.take_until(mark)
            self._content(text)
            if found or self._source.ended:
                return found
            yield

    def _rest(self) -> Reading[None]:
        """Pass on all that comes as content."""
        while True:
            self._content(self._source.take_all())
            if self._source.ended:
                return
            yield

    def _start(self, name: str) -> None:
        self._blank = ""
        self._after_call = True
        self._pieces.append(CallStart(name))

    def _arguments(self, text: str) -> None:
        if text:
            self._pieces.append(CallArguments(text))

    def _calls(self, *, bare: bool) -> Reading[bool]:
        """Read one call, or a list of calls; returns whether there was one.

        What is no part of a call is left in the source's record.

        Args:
            bare: no mark says that these are calls: without arguments an object is none.
        """
        source = self._source
        if (yield from source.skip_space()) != "[":
            return (yield from self._call(bare=bare))
        source.take_char()
        found = False
        while (yield from source.skip_space()) == "{":
            if not (yield from self._call(bare=bare)):
                return found
            found = True
            if (yield from source.skip_space()) != ",":
                break
            source.take_char()
        if found and (yield from source.peek()) == "]":
            source.take_char()
            source.record()
        return found

    def _call(self, *, bare: bool) -> Reading[bool]:
        """Read an object; as `_calls`."""
        source = self._source
        if (yield from source.skip_space()) != "{":
            return False
        source.take_char()
        name: str | None = None
        arguments: str | None = None
        started = False
        while (yield from source.skip_space()) == '"':
            key = decoded_text((yield from self._value()))
            if (yield from source.skip_space()) != ":":
                return started
            source.take_char()
            first = yield from source.skip_space()
            if key == "name" and name is None:
                name = decoded_text((yield from self._value()))
                if not name:
                    return False
            elif key in ("arguments", "parameters") and arguments is None:
                arguments = ""
                if first == "{" and name is not None:
                    self._start(name)
                    started = True
                    yield from self._value(passed_on=True)
                    source.record()
                else:
                    arguments = yield from self._value()
            else:
                yield from self._value()
            if name is not None and arguments and not started:
                if (text := object_text(arguments)) is None:
                    return False
                self._start(name)
                self._arguments(text)
                started = True
                source.record()
            if (yield from source.skip_space()) != ",":
                break
            source.take_char()
        if (yield from source.peek()) == "}":
            source.take_char()
            if name is not None and arguments is None and not bare:
                self._start(name)
                self._arguments("{}")
                started = True
            if started:
                source.record()
        return started

    def _value(self, *, passed_on: bool = False) -> Reading[str]:
        """Read a JSON value by its brackets and quotes; returns it, or passes it on as arguments while it arrives."""
        source, parts = self._source, list[str]()
        depth, in_string = 0, False

        def put(text: str) -> None:
            if passed_on:
                self._arguments(text)
            else:
                parts.append(text)

        while char := (yield from source.peek()):
            if in_string:
                if char == '"':
                    put(source.take_char())
                    in_string = False
                    if depth == 0:
                        break
                elif text := source.take(_IN_STRING):
                    put(text)
                else:  # a backslash whose second half has not arrived
                    put(source.take_char())
                    if (yield from source.peek()):
                        put(source.take_char())
            elif depth and (text := source.take(_IN_BRACKETS)):
                put(text)
            elif char in "{[":
                text = source.take(_OPENING)
                put(text)
                depth += len(text)
            elif char in "}]":
                if depth == 0:
                    break
                put(source.take_char())
                depth -= 1
                if depth == 0:
                    break
            elif char == '"':
                put(source.take_char())
                in_string = True
            elif text := source.take(_SCALAR):
                put(text)
            else:
                break
        return "".join(parts)
