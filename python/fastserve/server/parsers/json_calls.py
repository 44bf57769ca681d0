"""Tool calls as plain JSON: a message that is an object with a name and arguments (or parameters), or a list of them."""

import json

from fastserve.server.parsers.source import Reading
from fastserve.server.parsers.tool_parser import CallTag, ToolParser


class JsonParser(ToolParser):
    """Calls stand at the beginning of the message; what follows them is content."""

    @classmethod
    def tag(cls, name: str) -> CallTag:
        quoted = json.dumps(name, ensure_ascii=False)
        return CallTag('{"name": "', f'{{"name": {quoted}, "arguments": ', "}")

    def _parse(self) -> Reading[None]:
        self._source.record()
        while (yield from self._calls(bare=True)):
            pass
        self._content(self._source.recorded())
        yield from self._rest()


class RequiredParser(JsonParser):
    """Reads an output that must be calls: a call that was cut before its arguments is not content."""

    def _content(self, text: str) -> None:
        if not self._after_call:
            super()._content(text)
