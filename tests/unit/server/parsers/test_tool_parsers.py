"""Each format as models write it, what is close to it and is no call, and every way to cut either."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.server.parsers.hermes import HermesParser
from fastserve.server.parsers.json_calls import JsonParser, RequiredParser
from fastserve.server.parsers.llama3 import Llama3Parser
from fastserve.server.parsers.mistral import MistralParser
from fastserve.server.parsers.named_call import NamedCallParser
from fastserve.server.parsers.pieces import CallArguments
from tests.unit.server.parsers.messages import Gathered, cuts, gather

PARIS = '{"city": "Paris", "unit": "celsius"}'
TRICKY = '{"code": "if (a) { return \\"}\\"; } // </tool_call> [TOOL_CALLS] \\\\", "n": [1, [2, {"x": null}]], "é": "日本🙂"}'
LOOK, SEND = ("look", PARIS), ("send", TRICKY)

# (parser, text, content, calls)
WRITTEN = [
    # Qwen2.5, Qwen3, Hermes 2 Pro and 3
    (HermesParser, "Hello there.", "Hello there.", []),
    (HermesParser, " \n", " \n", []),
    (HermesParser, f'<tool_call>\n{{"name": "look", "arguments": {PARIS}}}\n</tool_call>', "", [LOOK]),
    (HermesParser, f'\n\n<tool_call>{{"arguments": {PARIS}, "name": "look"}}</tool_call>\n', "", [LOOK]),
    (
        HermesParser,
        f'Let me see.\n\n<tool_call>\n{{"name": "look", "arguments": {PARIS}}}\n</tool_call>\n'
        f'<tool_call>\n{{"name": "send", "arguments": {TRICKY}}}\n</tool_call>',
        "Let me see.",
        [LOOK, SEND],
    ),
    (HermesParser, '<tool_call>\n{"name": "now"}\n</tool_call>', "", [("now", "{}")]),
    (HermesParser, '<tool_call>\n{"name": "now", "arguments": null}\n</tool_call>', "", [("now", "{}")]),
    (HermesParser, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("f", '{"a": 1}')]),
    (HermesParser, f'<tool_call>\n{{"name": "look", "arguments": {PARIS}}}', "", [LOOK]),
    (HermesParser, f'<tool_call>\n{{"name": "look", "arguments": {PARIS}\n</tool_call>', "", [LOOK]),
    (HermesParser, f'<tool_call>{{"name": "look", "arguments": {PARIS}}}</tool_call>\nDone.', "\nDone.", [LOOK]),
    (HermesParser, '<tool_call>{"name": "f", "arguments": {"a": True}}</tool_call>', "", [("f", '{"a": True}')]),
    (HermesParser, '<tool_call>{"name": "f", "arguments": {"a": "cut', "", [("f", '{"a": "cut')]),
    # Llama 3.1 and 3.2
    (Llama3Parser, f'{{"name": "look", "parameters": {PARIS}}}', "", [LOOK]),
    (Llama3Parser, f'<|python_tag|>{{"name": "look", "parameters": {PARIS}}}', "", [LOOK]),
    (Llama3Parser, f'{{"type": "function", "name": "look", "parameters": {PARIS}}}', "", [LOOK]),
    (
        Llama3Parser,
        f'\n{{"name": "look", "parameters": {PARIS}}}; {{"name": "send", "arguments": {TRICKY}}}',
        "",
        [LOOK, SEND],
    ),
    (Llama3Parser, f'Sure.<|python_tag|>{{"name": "look", "parameters": {PARIS}}}', "Sure.", [LOOK]),
    (Llama3Parser, "The capital is {Paris}.", "The capital is {Paris}.", []),
    (Llama3Parser, '{"answer": 42, "why": ["x"]}', '{"answer": 42, "why": ["x"]}', []),
    (Llama3Parser, '{"name": "Ann", "age": 3}', '{"name": "Ann", "age": 3}', []),
    (Llama3Parser, "<|python_tag|>import os\nprint({})", "<|python_tag|>import os\nprint({})", []),
    # Mistral, versions 3 to 7 and 11 to 13 of its tokenizer
    (MistralParser, f'[TOOL_CALLS] [{{"name": "look", "arguments": {PARIS}}}]', "", [LOOK]),
    (
        MistralParser,
        f'[TOOL_CALLS][{{"name": "look", "arguments": {PARIS}, "id": "a1b2c3d4e"}}, '
        f'{{"name": "send", "arguments": {TRICKY}}}]',
        "",
        [LOOK, SEND],
    ),
    (MistralParser, f"I look.[TOOL_CALLS]look{PARIS}[TOOL_CALLS]send{TRICKY}", "I look.", [LOOK, SEND]),
    (MistralParser, f"[TOOL_CALLS]look[ARGS]{PARIS}", "", [LOOK]),
    (MistralParser, f"[TOOL_CALLS]look[CALL_ID]a1b2c3d4e[ARGS]{PARIS}", "", [LOOK]),
    (MistralParser, "[TOOL_CALLS] none of them", "[TOOL_CALLS] none of them", []),
    (MistralParser, "[TOOL_CALLS] []", "[TOOL_CALLS] []", []),
    (MistralParser, "a [list] of [TOOL_CALL", "a [list] of [TOOL_CALL", []),
    # plain JSON
    (JsonParser, f'[{{"name": "look", "parameters": {PARIS}}}]', "", [LOOK]),
    (
        JsonParser,
        f' [ {{"name": "look", "arguments": {PARIS}}} , {{"name": "send", "arguments": {TRICKY}}} ] ',
        "",
        [LOOK, SEND],
    ),
    (JsonParser, f'{{"name": "look", "arguments": {PARIS}}}', "", [LOOK]),
    (JsonParser, "[1, 2]", "[1, 2]", []),
    (JsonParser, "Hi [1]", "Hi [1]", []),
    (RequiredParser, f'[{{"name": "look", "parameters": {PARIS}}}, {{"name": "se', "", [LOOK]),
    (RequiredParser, '[{"name": "se', '[{"name": "se', []),
    (HermesParser, '<tool_call>{"name": "\\u00e9", "arguments": {}}', "", [("é", "{}")]),
    # close to a call, and none
    (HermesParser, '<tool_call>{"name": "\\ud800", "arguments": {}}', '<tool_call>{"name": "\\ud800", "arguments": {}}', []),
    (HermesParser, "<tool_call>oops</tool_call>", "<tool_call>oops</tool_call>", []),
    (HermesParser, "a <tool_cal", "a <tool_cal", []),
    (HermesParser, "a < b <tool_ b", "a < b <tool_ b", []),
    (HermesParser, '<tool_call>{"nam', '<tool_call>{"nam', []),
    (HermesParser, '<tool_call>{"name": "f"', '<tool_call>{"name": "f"', []),
    (HermesParser, '<tool_call>{"name": 7, "arguments": {}}', '<tool_call>{"name": 7, "arguments": {}}', []),
    (HermesParser, "<tool_call>{'name': 'f'}</tool_call>", "<tool_call>{'name': 'f'}</tool_call>", []),
    (HermesParser, '<tool_call>{"name": "f", "arguments": 5}', '<tool_call>{"name": "f", "arguments": 5}', []),
    (HermesParser, f'<tool_call><tool_call>{{"name": "look", "arguments": {PARIS}}}', "<tool_call>", [LOOK]),
    (
        HermesParser,
        f'<tool_call>{{"name": "look", "arguments": {PARIS}, oops}}</tool_call>',
        ", oops}</tool_call>",
        [LOOK],
    ),
    (
        JsonParser,
        f'[{{"name": "look", "arguments": {PARIS}}}, {{"mood": "odd"}}]',
        ', {"mood": "odd"}]',
        [LOOK],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("parser", "text", "content", "calls"), WRITTEN)
def test_a_text_is_taken_apart(parser, text, content, calls):
    assert gather(parser(), [text]) == Gathered(content, calls)


@pytest.mark.parametrize(("parser", "text", "content", "calls"), WRITTEN)
def test_the_parts_do_not_depend_on_where_the_text_is_cut(parser, text, content, calls):
    whole = Gathered(content, calls)
    assert gather(parser(), text) == whole
    for place in range(len(text) + 1):
        assert gather(parser(), cuts(text, place)) == whole


PARSERS = (HermesParser, Llama3Parser, MistralParser, JsonParser)
FRAGMENTS = st.sampled_from(
    ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", "<tool", "[", "]", "{", "}", ";",
     '"', "\\", '\\"', ":", ",", '"name"', '"arguments"', '"parameters"', '"f"', "f", "null", " ", "\n", "x", "é",
     '{"name": "f", "arguments": ', '{"name": "f", "arguments": {}}', '{"arguments": {"a": 1}, "name": "f"}']
)  # fmt: skip


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=200, deadline=None)
@given(fragments=st.lists(FRAGMENTS, max_size=12), data=st.data())
def test_any_text_gives_the_same_parts_however_it_is_cut(parser, fragments, data):
    text = "".join(fragments)
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert gather(parser(), cuts(text, *places)) == gather(parser(), [text])


@pytest.mark.parametrize("parser", PARSERS)
@settings(max_examples=200, deadline=None)
@given(text=st.lists(FRAGMENTS, max_size=12).map("".join))
def test_text_without_a_call_is_content_to_the_last_character(parser, text):
    message = gather(parser(), [text])
    if not message.calls:
        assert message.content == text


@pytest.mark.parametrize("parser", PARSERS)
def test_arguments_are_passed_on_while_they_arrive(parser):
    opening = {
        HermesParser: '<tool_call>{"name": "f", "arguments": ',
        Llama3Parser: '{"name": "f", "parameters": ',
        MistralParser: "[TOOL_CALLS]f[ARGS]",
        JsonParser: '[{"name": "f", "arguments": ',
    }[parser]
    run = parser()
    run.feed(opening + '{"a": "one')
    assert list(run.feed(" two")) == [CallArguments(" two")]
    assert "".join(piece.text for piece in run.feed(' three", "b": 1')) == ' three", "b": 1'


@pytest.mark.parametrize("parser", [HermesParser, Llama3Parser, JsonParser])
def test_a_tag_is_what_the_parser_reads(parser):
    name = 'f"é'
    tag = parser.tag(name)
    assert tag.begin.startswith(tag.trigger)
    assert gather(parser(), [tag.begin + PARIS + tag.end]) == Gathered("", [(name, PARIS)])


def test_all_that_a_named_call_writes_are_its_arguments():
    for texts in ([PARIS], PARIS, cuts("\n\n" + PARIS, 1, 9)):
        assert gather(NamedCallParser("look"), texts) == Gathered("", [LOOK])
    assert gather(NamedCallParser("look"), []) == Gathered()


def test_mistrals_ids_are_those_that_its_templates_take():
    ids = {MistralParser.new_id() for _ in range(100)}
    assert len(ids) == 100 and all(len(each) == 9 and each.isalnum() for each in ids)
    assert HermesParser.new_id().startswith("call_")


def test_a_long_hostile_text_is_read_in_one_pass():
    text = '<tool_call>{"x": [' * 20_000
    assert gather(HermesParser(), cuts(text, *range(0, len(text), 5000))).content == text
    big = json.dumps({"x": "y" * 500_000})
    assert gather(HermesParser(), ['<tool_call>{"arguments": ' + big + ', "name": "f"}']).calls == [("f", big)]
