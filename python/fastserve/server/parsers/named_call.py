"""The output of a request that names its function: the arguments of one call, and nothing else."""

from fastserve.server.parsers.source import Reading
from fastserve.server.parsers.tool_parser import ToolParser


class NamedCallParser(ToolParser):
    """All text but white space before it is the arguments."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def _parse(self) -> Reading[None]:
        source = self._source
        if not (yield from source.skip_space()):
            return
        self._start(self._name)
        while not source.ended:
            self._arguments(source.take_all())
            yield
        self._arguments(source.take_all())
