"""Tool calls as Llama 3.1 and 3.2 write them: a message of `{"name": ..., "parameters": ...}`, several separated by `;`."""

import json
from typing import ClassVar

from fastserve.server.parsers.source import Reading
from fastserve.server.parsers.tool_parser import CallTag, ToolParser

_TAG = "<|python_tag|>"


class Llama3Parser(ToolParser):
    """Calls stand at the beginning of the message, or after the mark of Llama's own tools."""

    marks: ClassVar[tuple[str, ...]] = (_TAG,)

    @classmethod
    def tag(cls, name: str) -> CallTag:
        quoted = json.dumps(name, ensure_ascii=False)
        return CallTag('{"name": "', f'{{"name": {quoted}, "parameters": ', "}")

    def _parse(self) -> Reading[None]:
        source, tagged = self._source, True
        source.record()
        yield from source.skip_space()
        yield from source.skip(_TAG)
        while tagged:
            while (yield from self._calls(bare=True)):
                if (yield from source.skip_space()) in (";", ","):
                    source.take_char()
            self._content(source.recorded())
            tagged = yield from self._content_until(_TAG)
            source.record(_TAG)
