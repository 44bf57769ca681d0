"""The parsers by the names of `--tool-call-parser` and `--reasoning-parser`."""

from collections.abc import Mapping

from fastserve.server.parsers.hermes import HermesParser
from fastserve.server.parsers.json_calls import JsonParser
from fastserve.server.parsers.llama3 import Llama3Parser
from fastserve.server.parsers.mistral import MistralParser
from fastserve.server.parsers.thinking import Thinking
from fastserve.server.parsers.tool_parser import ToolParser

TOOL_PARSERS: Mapping[str, type[ToolParser]] = {
    "hermes": HermesParser,
    "llama3_json": Llama3Parser,
    "mistral": MistralParser,
    "json": JsonParser,
}
REASONING_PARSERS: Mapping[str, Thinking] = {"qwen3": Thinking(always=False), "deepseek_r1": Thinking(always=True)}
