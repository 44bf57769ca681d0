"""Tool calls as Mistral's models write them, after the mark `[TOOL_CALLS]`.

Up to version 7 of its tokenizer a list of objects with name and arguments follows; from version 11 on, after each mark, the name
of the function, maybe `[CALL_ID]` and an id, maybe `[ARGS]`, and the arguments.
"""

import random
import re
import string
from typing import ClassVar

from fastserve.server.parsers.source import Reading
from fastserve.server.parsers.tool_parser import ToolParser

_BEGIN, _ID, _ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[A-Za-z0-9_.\-]+")
_ID_CHARS = 9  # the chat templates refuse any other id


class MistralParser(ToolParser):
    """Calls of either form among content."""

    marks: ClassVar[tuple[str, ...]] = (_BEGIN, _ID, _ARGS)

    @classmethod
    def new_id(cls) -> str:
        return "".join(random.choices(string.ascii_letters + string.digits, k=_ID_CHARS))

    def _parse(self) -> Reading[None]:
        source = self._source
        while (yield from self._content_until(_BEGIN)):
            source.record(_BEGIN)
            if (yield from source.skip_space()) in ("[", "{"):
                yield from self._calls(bare=False)
            else:
                yield from self._named_call()
            self._content(source.recorded())

    def _named_call(self) -> Reading[None]:
        source = self._source
        name = yield from self._word()
        if (yield from source.skip(_ID)):
            yield from self._word()
        yield from source.skip(_ARGS)
        if name and (yield from source.skip_space()) == "{":
            self._start(name)
            source.recorded()
            yield from self._value(passed_on=True)
            source.record()

    def _word(self) -> Reading[str]:
        word = ""
        yield from self._source.skip_space()
        while part := self._source.take(_NAME):
            word += part
            yield from self._source.peek()
        return word
