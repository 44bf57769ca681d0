"""Tool calls as Hermes 2 Pro and 3, Qwen2.5 and Qwen3 write them: `<tool_call>{"name": ..., "arguments": ...}</tool_call>`."""

import json
from typing import ClassVar

from fastserve.server.parsers.source import Reading
from fastserve.server.parsers.tool_parser import CallTag, ToolParser

_BEGIN, _END = "<tool_call>", "</tool_call>"


class HermesParser(ToolParser):
    """Any number of calls among content; a missing end mark is forgiven."""

    marks: ClassVar[tuple[str, ...]] = (_BEGIN, _END)

    @classmethod
    def tag(cls, name: str) -> CallTag:
        quoted = json.dumps(name, ensure_ascii=False)
        return CallTag(_BEGIN, f'{_BEGIN}\n{{"name": {quoted}, "arguments": ', f"}}\n{_END}")

    def _parse(self) -> Reading[None]:
        source = self._source
        while (yield from self._content_until(_BEGIN)):
            source.record(_BEGIN)
            found = yield from self._calls(bare=False)
            self._content(source.recorded())
            if found:
                source.record()
                yield from source.skip_space()
                if (yield from source.skip(_END)):
                    source.record()
                self._content(source.recorded())
