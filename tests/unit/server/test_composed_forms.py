"""The forms that tools and reasoning make of schemas can be compiled, and mean what they should."""

import json

import pytest
import xgrammar

from fastserve.grammars.compiler import FormCompiler
from fastserve.server.parsers.registry import TOOL_PARSERS
from fastserve.server.requests.constraints import after_reasoning, forced_calls, strict_calls
from fastserve.server.requests.tools import NamedChoice, Tool
from fastserve.types import StructuredOutputs

COMPILER = FormCompiler([*(bytes([byte]) for byte in range(256)), b""], [256])
NODE = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["next"]}  # fmt: skip
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}, "tree": {"$ref": "#/$defs/node"}},
              "required": ["city"], "$defs": {"node": NODE}}  # fmt: skip
TOOLS = [
    Tool.model_validate({"type": "function", "function": {"name": "look", "parameters": PARAMETERS, "strict": True}}),
    Tool.model_validate({"type": "function", "function": {"name": "now"}}),
]
ARGUMENTS = '{"city": "Paris", "tree": {"next": null}}'


def fits(form: StructuredOutputs, text: str) -> bool:
    matcher = xgrammar.GrammarMatcher(COMPILER.compile(form))
    return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(256)


def test_calls_that_are_required_or_named() -> None:
    required = forced_calls(TOOLS, "required", parallel=True)
    assert fits(required, f'[{{"name": "look", "parameters": {ARGUMENTS}}}, {{"name": "now", "parameters": {{}}}}]')
    assert not fits(required, '[{"name": "look", "parameters": {"city": 1}}]')
    assert not fits(required, "[]")
    choice = NamedChoice.model_validate({"type": "function", "function": {"name": "look"}})
    assert fits(forced_calls(TOOLS, choice, parallel=True), ARGUMENTS)


@pytest.mark.parametrize("name", TOOL_PARSERS)
def test_calls_whose_arguments_are_strict(name: str) -> None:
    parser = TOOL_PARSERS[name]
    form = strict_calls(TOOLS, parser)
    if form is None:
        assert parser.tag("look") is None
        return
    tag = parser.tag("look")
    assert fits(form, "no call")
    assert fits(form, f"{tag.begin}{ARGUMENTS}{tag.end}")
    assert not fits(form, f'{tag.begin}{{"city": 1}}{tag.end}')


@pytest.mark.parametrize(
    ("form", "right", "wrong"),
    [
        (StructuredOutputs(json=json.dumps(PARAMETERS)), ARGUMENTS, '{"city": 1}'),
        (StructuredOutputs(json_object=True), "{}", "[]"),
        (StructuredOutputs(regex="a+"), "aa", "b"),
        (StructuredOutputs(choice=("yes", "no")), "no", "maybe"),
        (StructuredOutputs(grammar='root ::= "x" root | "y"'), "xxy", "x"),
        (StructuredOutputs(structural_tag='{"type":"structural_tag","format":{"type":"const_string","value":"q"}}'), "q", "r"),
    ],
    ids=str,
)  # fmt: skip
def test_a_form_behind_reasoning(form: StructuredOutputs, right: str, wrong: str) -> None:
    begun, maybe = after_reasoning(form, True), after_reasoning(form, None)
    assert after_reasoning(form, False) == form
    assert fits(begun, f"hm, {wrong}?</think>\n\n{right}")
    assert not fits(begun, f"hm</think>\n\n{wrong}")
    assert not fits(begun, right)  # the reasoning has no end
    assert fits(maybe, right) and fits(maybe, f"<think>hm</think>{right}")
    assert not fits(maybe, wrong)
