"""The form that an output must have for tool calls, and for what follows reasoning."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastserve.errors import InvalidArgumentError
from fastserve.grammars.structural_tag import read_tag
from fastserve.server.errors import bad_request
from fastserve.server.parsers.thinking import BEGIN, END
from fastserve.server.parsers.tool_parser import ToolParser
from fastserve.server.requests.tools import NamedChoice, Tool, ToolChoice, ToolFunction, function_named
from fastserve.types import StructuredOutputs

Json = dict[str, Any]

# White space that models write between the end of their reasoning and the content.
_GAP: Json = {"type": "regex", "pattern": r"\s{0,4}"}


def forced_calls(tools: Sequence[Tool], choice: ToolChoice, *, parallel: bool) -> StructuredOutputs | None:
    """Return the form of an output that must be calls; None = it need not be.

    A named function's is that of its arguments, otherwise it is a list of objects with `name` and `parameters`.

    Raises:
        ApiError: 400, the schemas are too long.
    """
    if isinstance(choice, NamedChoice):
        function = function_named(list(tools), choice.function.name)
        return _schema(_parameters(function, "#")) if function is not None else None
    if choice != "required":
        return None
    calls: list[Json] = []
    for i, tool in enumerate(tools):
        parameters = _parameters(tool.function, f"#/items/anyOf/{i}/properties/parameters")
        properties = {"name": {"const": tool.function.name}, "parameters": parameters}
        calls.append(
            {
                "type": "object",
                "properties": properties,
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    schema: Json = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    return _schema(schema if parallel else schema | {"maxItems": 1})


def strict_calls(tools: Sequence[Tool], parser: type[ToolParser]) -> StructuredOutputs | None:
    """Return the form of an output in which calls, if any, have arguments of their schemas; None = no tool asks for it.

    A format that can be written in more than one way is left free.

    Raises:
        ApiError: 400, the schemas are too long.
    """
    functions = [tool.function for tool in tools]
    if not any(function.strict for function in functions):
        return None
    triggers: list[str] = []
    tags: list[Json] = []
    for function in functions:
        tag = parser.tag(function.name)
        if tag is None:
            return None
        schema = _parameters(function, "#") if function.strict else {"type": "object"}
        tags.append({"begin": tag.begin, "content": {"type": "json_schema", "json_schema": schema}, "end": tag.end})
        triggers = [tag.trigger]
    return _tagged({"type": "triggered_tags", "triggers": triggers, "tags": tags})


def after_reasoning(outputs: StructuredOutputs, begun: bool | None) -> StructuredOutputs:
    """Return a form that leaves the reasoning free and holds for what follows it.

    Args:
        outputs: the form of the content.
        begun: see `Thinking.begun`.

    Raises:
        ApiError: 400, it becomes too long.
    """
    if begun is False:
        return outputs
    content = _format(outputs)
    thinking = {
        "type": "sequence",
        "elements": [
            {"type": "tag", "begin": "" if begun else BEGIN, "content": {"type": "any_text"}, "end": END},
            _GAP,
            content,
        ],
    }
    return _tagged(thinking if begun else {"type": "or", "elements": [thinking, content]})


def _format(outputs: StructuredOutputs) -> Json:
    """The form as a part of a structural tag."""
    if outputs.json is not None:
        return {"type": "json_schema", "json_schema": json.loads(outputs.json)}
    if outputs.json_object:
        return {"type": "json_schema", "json_schema": {"type": "object"}}
    if outputs.regex is not None:
        return {"type": "regex", "pattern": outputs.regex}
    if outputs.grammar is not None:
        return {"type": "grammar", "grammar": outputs.grammar}
    if outputs.structural_tag is not None:
        form: Json = read_tag(outputs.structural_tag)["format"]
        return form
    return {"type": "or", "elements": [{"type": "const_string", "value": text} for text in outputs.choice]}


def _parameters(function: ToolFunction, place: str) -> Json:
    """The schema of a function's arguments, which stands at `place` of another."""
    schema = dict(function.parameters or {})
    schema.setdefault("type", "object")
    return schema if place == "#" else _moved(schema, place)


def _moved(schema: Any, place: str) -> Any:
    """The schema with its references to itself as they must be at `place`."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: place + value[1:]
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, place)
        for key, value in schema.items()
    }


def _schema(schema: Json) -> StructuredOutputs:
    return _checked(lambda text: StructuredOutputs(json=text), schema)


def _tagged(form: Json) -> StructuredOutputs:
    return _checked(lambda text: StructuredOutputs(structural_tag=text), {"type": "structural_tag", "format": form})


def _checked(outputs: Callable[[str], StructuredOutputs], value: Json) -> StructuredOutputs:
    try:
        return outputs(json.dumps(value, ensure_ascii=False))
    except InvalidArgumentError as error:
        raise bad_request(f"the schemas of the output are too long: {error}", "tools", "invalid_value") from None
