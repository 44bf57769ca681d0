"""Forms of chats: calls of tools, and content after reasoning, as the grammars of the engine take them."""

import json

import pytest

from fastserve.server.parsers.hermes import HermesParser
from fastserve.server.parsers.json_calls import JsonParser, RequiredParser
from fastserve.server.parsers.llama3 import Llama3Parser
from fastserve.server.requests.constraints import after_reasoning, forced_calls, strict_calls
from fastserve.server.requests.tools import NamedChoice, Tool
from fastserve.types import StructuredOutputs
from tests.unit.grammars.test_forms import begin, follows
from tests.unit.server.parsers.messages import gather

CITY = {"type": "string", "maxLength": 8}
LOOK = Tool.model_validate(
    {
        "function": {
            "name": "look",
            "strict": True,
            "parameters": {
                "type": "object",
                "properties": {"city": {"$ref": "#/$defs/City"}},
                "required": ["city"],
                "additionalProperties": False,
                "$defs": {"City": CITY},
            },
        }
    }
)
NOW = Tool.model_validate({"function": {"name": "now", "parameters": {"additionalProperties": False}}})
PARIS, ONE = '{"city": "Paris"}', '{"city": 1}'
LOOKS, LOOKS_AT_ONE, IS_NOW = (
    f'{{"name": "{name}", "parameters": {arguments}}}'
    for name, arguments in (("look", PARIS), ("look", ONE), ("now", "{}"))
)


@pytest.mark.parametrize(
    ("text", "fits", "fits_alone"),
    [
        (f"[{LOOKS}]", True, True),
        (f"[{LOOKS}, {IS_NOW}]", True, False),
        ("[]", False, False),
        (f"[{LOOKS_AT_ONE}]", False, False),
        (LOOKS, False, False),
        ("I look.", False, False),
    ],
)
def test_required_calls_are_a_list_of_calls_that_the_parser_reads(text, fits, fits_alone):
    for parallel, expected in ((True, fits), (False, fits_alone)):
        form = forced_calls([LOOK, NOW], "required", parallel=parallel)
        assert follows(begin(form), text) == expected
    if fits:
        message = gather(RequiredParser(), [text])
        assert message.calls and not message.content


def test_a_named_function_is_its_arguments():
    choice = NamedChoice.model_validate({"function": {"name": "look"}})
    form = forced_calls([NOW, LOOK], choice, parallel=True)
    assert [follows(begin(form), text) for text in (PARIS, ONE, LOOKS)] == [True, False, False]


@pytest.mark.parametrize("parser", [HermesParser, Llama3Parser, JsonParser])
def test_strict_tools_leave_the_text_free_and_hold_the_arguments(parser):
    form = strict_calls([LOOK, NOW], parser)
    look, now = parser.tag("look"), parser.tag("now")
    for text, fits in (
        ("I need no tool.", True),
        (look.begin + PARIS + look.end, True),
        (now.begin + '{"anything": [1]}' + now.end, True),
        (look.begin + ONE + look.end, False),
        (look.begin.replace("look", "none") + PARIS + look.end, False),
    ):
        assert follows(begin(form), text) == fits, text


FORMS = (
    (StructuredOutputs(json=json.dumps({"type": "integer"})), "7", "seven"),
    (StructuredOutputs(json_object=True), '{"a": 1}', "[1]"),
    (StructuredOutputs(regex="a+"), "aa", "ab"),
    (StructuredOutputs(choice=("yes", "no")), "yes", "maybe"),
    (StructuredOutputs(grammar='root ::= "(" root ")" | "x"'), "((x))", "((x)"),
    (forced_calls([LOOK], "required", parallel=True), f"[{LOOKS}]", "[]"),
    (strict_calls([LOOK], HermesParser), "I need no tool.", HermesParser.tag("look").begin + ONE),
)


@pytest.mark.parametrize(("form", "good", "bad"), FORMS)
def test_a_form_holds_from_the_end_of_the_reasoning_on(form, good, bad):
    thought = "hm {7} <b>"
    opened, maybe = after_reasoning(form, begun=True), after_reasoning(form, begun=None)
    for gap in ("", "\n\n"):
        assert follows(begin(opened), f"{thought}</think>{gap}{good}")
        assert not follows(begin(opened), f"{thought}</think>{gap}{bad}")
        assert follows(begin(maybe), f"<think>{thought}</think>{gap}{good}")
        assert not follows(begin(maybe), f"<think>{thought}</think>{gap}{bad}")
    assert follows(begin(maybe), good) and not follows(begin(maybe), bad)
    assert follows(begin(after_reasoning(form, begun=False)), good)
