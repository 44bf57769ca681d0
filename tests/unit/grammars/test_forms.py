"""Forms are compiled or refused with a reason, and what their masks allow has the form."""

import json
import re

import numpy as np
import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.grammars.compiler import FormCompiler
from fastserve.grammars.matcher import OutputMatcher, num_words
from fastserve.grammars.vocabulary import token_table
from fastserve.tokenizer.tokenizer import Tokenizer
from fastserve.types import StructuredOutputs
from tests.json_schema import is_valid
from tests.unit.grammars.schemas import SCHEMAS
from tests.unit.tokenizer import tiny

TOKENIZER = Tokenizer(tiny.byte_level(), special_tokens={"eos_token": "</s>"})
END = TOKENIZER.eos_token_id
VOCAB_SIZE = TOKENIZER.vocab_size + 37  # a model may have more logits than there are tokens, and no multiple of 32
COMPILER = FormCompiler(token_table(TOKENIZER, VOCAB_SIZE), [END])


def begin(form: StructuredOutputs, **settings: object) -> OutputMatcher:
    return OutputMatcher(COMPILER.compile(form), VOCAB_SIZE, **{"end_token_ids": [END]} | settings)


def allowed(matcher: OutputMatcher) -> np.ndarray:
    """Ids of the tokens that may come next."""
    masks = np.zeros((3, num_words(VOCAB_SIZE)), np.int32)
    matcher.fill(masks, 1)
    assert not masks[[0, 2]].any()
    return np.flatnonzero(np.unpackbits(masks[1].view(np.uint8), bitorder="little")[:VOCAB_SIZE])


def draw(matcher: OutputMatcher, seed: int) -> list[int]:
    """Tokens drawn from those that may come, ends preferred: no output goes on for long."""
    rng, tokens = np.random.default_rng(seed), []
    while not tokens or tokens[-1] != END:
        choices = allowed(matcher)
        assert choices.size
        closing = [i for i in choices if TOKENIZER.decode_token_bytes(int(i)) in (b'"', b"}", b"]")]
        ends = [END] if END in choices else closing if len(tokens) > 40 and closing else []
        tokens.append(int(rng.choice(ends or choices)))
        matcher.take(len(tokens) - 1, tokens[-1])
        assert len(tokens) < 4000
    return tokens


@pytest.mark.parametrize("name", SCHEMAS)
def test_whatever_is_drawn_from_the_masks_fits_the_schema(name: str) -> None:
    form = StructuredOutputs(json=json.dumps(SCHEMAS[name]))
    for seed in range(3):
        text = TOKENIZER.decode(draw(begin(form), seed))
        assert is_valid(json.loads(text), SCHEMAS[name]), text


def test_the_validator_of_these_tests_can_refuse() -> None:
    wrong = {"integer": "1", "bounded integer": 121, "short string": "abcdef", "enum": "b", "object": {"name": "x"},
             "tuple": [True], "definitions": {"first": "mon", "last": "sun"}, "other members": {"a": 1}}  # fmt: skip
    assert not any(is_valid(value, SCHEMAS[name]) for name, value in wrong.items())


@pytest.mark.parametrize(
    "form",
    [
        StructuredOutputs(json_object=True),
        StructuredOutputs(regex=r"[a-c]{2,4}(x|\d{2})"),
        StructuredOutputs(choice=('say "hi"\n', "back\\slash", "猫🙂", "\x00", "no")),
        StructuredOutputs(grammar='root ::= "(" root ")" | [0-9]'),
    ],
    ids=str,
)
def test_other_forms_are_kept_as_well(form: StructuredOutputs) -> None:
    for seed in range(5):
        text = TOKENIZER.decode(draw(begin(form), seed))
        if form.json_object:
            assert isinstance(json.loads(text), dict)
        elif form.choice:
            assert text in form.choice
        else:
            assert re.fullmatch(form.regex or r"\(*[0-9]\)*", text) and text.count("(") == text.count(")")


TAG = {"begin": "<f>", "schema": {"type": "object", "properties": {"a": {"type": "string", "maxLength": 3}},
                                  "required": ["a"]}, "end": "</f>"}  # fmt: skip
NEW_TAG = {
    "type": "tag",
    "begin": "<f>",
    "content": {"type": "json_schema", "json_schema": TAG["schema"]},
    "end": "</f>",
}


@pytest.mark.parametrize(
    "tag",
    [
        {"type": "structural_tag", "structures": [TAG], "triggers": ["<f"]},
        {
            "type": "structural_tag",
            "format": {"type": "triggered_tags", "triggers": ["<f"], "tags": [NEW_TAG]},
        },
    ],
    ids=["structures", "format"],
)
def test_text_is_free_outside_of_tags_and_has_the_schema_within(tag: dict[str, object]) -> None:
    form = StructuredOutputs(structural_tag=json.dumps(tag))
    for text, fits in {
        "no tag": True,
        'a <f>{"a":"x"}</f> b': True,
        'a <f>{"a":1}</f>': False,
        'a <f>{"a":"\x01"}</f>': False,
        "a <g>": True,
    }.items():
        assert follows(begin(form), text) == fits, text


def follows(matcher: OutputMatcher, text: str) -> bool:
    """Whether a text may be the whole output."""
    for index, token in enumerate([*TOKENIZER.encode(text, add_special_tokens=False), END]):
        if token not in allowed(matcher):
            return False
        matcher.take(index, token)
    return True


def test_no_string_takes_a_raw_control_character() -> None:
    for schema in ({"type": "string"}, {"type": "string", "maxLength": 9}, {"type": "string", "pattern": "a.*"}):
        form = StructuredOutputs(json=json.dumps(schema))
        assert follows(begin(form), '"ab"')
        assert not any(follows(begin(form), f'"a{chr(code)}"') for code in range(32))


def test_special_tokens_and_logits_without_a_token_are_never_allowed() -> None:
    choices = allowed(begin(StructuredOutputs(regex="(.|\n)*")))
    assert not set(choices) & (TOKENIZER.special_ids - {END})
    assert choices.max() < TOKENIZER.vocab_size


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"json": "{"}, "structured_outputs.json cannot be used: Expecting property name"),
        ({"json": "[1]"}, "structured_outputs.json cannot be used: Schema should be an object or bool"),
        ({"json": '{"type": "x"}'}, 'structured_outputs.json cannot be used: Unsupported type "x"'),
        ({"json": '{"$ref": "#/$defs/x"}'}, "structured_outputs.json cannot be used: Cannot find field '$defs'"),
        ({"json": "[" * 50_000}, "structured_outputs.json cannot be used: "),
        ({"json": '{"anyOf":[' * 9_000 + "{}" + "]}" * 9_000}, "structured_outputs.json cannot be used: "),
        ({"json": '{"const": "\ud800"}'}, "structured_outputs.json cannot be used: 'utf-8' codec can't encode"),
        ({"json": '{"uniqueItems": true}'}, "structured_outputs.json: a JSON schema with 'uniqueItems' is not supported"),
        ({"json": '{"items": {"not": {}}}'}, "structured_outputs.json: a JSON schema with 'not' is not supported"),
        ({"json": '{"properties": {"a": {"allOf": [{}, {}]}}}'}, "structured_outputs.json: a JSON schema with 'allOf' of several"),
        ({"json": '{"$ref": "http://x/y"}'}, "structured_outputs.json: a JSON schema with a '$ref' to another document"),
        ({"regex": "a("}, "structured_outputs.regex cannot be used: Regex parsing error at position 3"),
        ({"regex": "(?=a)b"}, "structured_outputs.regex cannot be used: Regex parsing error at position 3: Lookahead"),
        ({"grammar": 'x ::= "a"'}, "structured_outputs.grammar cannot be used: EBNF parser error at line 1"),
        ({"grammar": "root ::= " + "(" * 50_000}, "structured_outputs.grammar cannot be used: "),
        ({"structural_tag": "[]"}, "structured_outputs.structural_tag: it must be an object, got list"),
        ({"structural_tag": '{"structures": 1}'}, "structured_outputs.structural_tag: structures must be a list"),
        ({"structural_tag": '{"type": "x"}'}, "structured_outputs.structural_tag cannot be used: Invalid structural tag"),
        (
            {"structural_tag": json.dumps({"structures": [TAG | {"schema": {"contains": {}}}], "triggers": ["<f"]})},
            "structured_outputs.structural_tag: a JSON schema with 'contains' is not supported",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_the_reason(fields: dict[str, str], reason: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        COMPILER.compile(StructuredOutputs(**fields))
    assert str(caught.value).startswith(reason)
    assert len(str(caught.value)) < 500
    assert "/project/" not in str(caught.value)


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    form = StructuredOutputs(json='{"type": "object", "properties": {"not": {"type": "integer"}}, "required": ["not"]}')
    assert follows(begin(form), '{"not":1}')


def test_a_tokenizer_without_bytes_and_a_model_without_an_end_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="structured_outputs needs a tokenizer whose tokens stand for bytes"):
        token_table(Tokenizer(tiny.word_piece()), 100)
    with pytest.raises(InvalidArgumentError, match="structured_outputs needs an end-of-sequence token"):
        FormCompiler([b"a"], [])


def test_tokens_with_a_leading_space_and_single_bytes_are_followed_in_a_byte_fallback_vocabulary() -> None:
    tokenizer = Tokenizer(tiny.byte_fallback(), special_tokens={"eos_token": "</s>"})
    compiler = FormCompiler(token_table(tokenizer, tokenizer.vocab_size), [tokenizer.eos_token_id])
    compiled = compiler.compile(StructuredOutputs(choice=("a b 猫", "no")))
    matcher = OutputMatcher(compiled, tokenizer.vocab_size, end_token_ids=[tokenizer.eos_token_id])
    masks = np.zeros((1, num_words(tokenizer.vocab_size)), np.int32)
    text, rng = b"", np.random.default_rng(1)
    for index in range(20):
        matcher.fill(masks, 0)
        choices = np.flatnonzero(np.unpackbits(masks[0].view(np.uint8), bitorder="little"))
        token = int(rng.choice(choices))
        matcher.take(index, token)
        if token == tokenizer.eos_token_id:
            break
        text += tokenizer.decode_token_bytes(token)
    assert text.decode() in ("a b 猫", "no")


def test_tokens_that_are_taken_again_replace_the_first_ones() -> None:
    form = StructuredOutputs(choice=("abc", "axyz"))
    a, b, x = (TOKENIZER.encode(letter, add_special_tokens=False)[0] for letter in "abx")
    matcher = begin(form)
    matcher.take(0, a)
    at_a = allowed(matcher).tolist()
    matcher.take(1, b)
    matcher.take(2, END)  # no token of the form: the output has failed
    assert not allowed(matcher).size
    matcher = begin(form)
    matcher.take(0, a)
    matcher.take(1, b)
    matcher.take(1, x)
    assert b not in allowed(matcher) and matcher.num_tokens == 2
    matcher.take(0, a)
    assert allowed(matcher).tolist() == at_a


def test_a_token_that_could_not_be_sampled_ends_the_output() -> None:
    matcher = begin(StructuredOutputs(regex="a+"))
    matcher.take(0, -1)
    assert not allowed(matcher).size


def test_everything_is_allowed_behind_the_end_which_the_step_does_not_know_yet() -> None:
    matcher = begin(StructuredOutputs(choice=("a",)))
    matcher.take(0, TOKENIZER.encode("a", add_special_tokens=False)[0])
    assert allowed(matcher).tolist() == [END]
    matcher.take(1, END)
    assert len(allowed(matcher)) == VOCAB_SIZE
    matcher.take(2, 5)
    assert len(allowed(matcher)) == VOCAB_SIZE


@pytest.mark.parametrize("settings", [{"min_tokens": 3}, {"ignore_eos": True}], ids=str)
def test_ends_are_held_back_while_something_else_may_come(settings: dict[str, object]) -> None:
    a = TOKENIZER.encode("a", add_special_tokens=False)[0]
    matcher = begin(StructuredOutputs(regex="a{1,4}"), **settings)
    for index in range(4):
        matcher.take(index, a)
        free = index == 3 or (index == 2 and "min_tokens" in settings)
        assert (END in allowed(matcher)) == free
    assert allowed(matcher).tolist() == [END]


def test_stop_tokens_are_held_back_before_min_tokens() -> None:
    a, b = (TOKENIZER.encode(letter, add_special_tokens=False)[0] for letter in "ab")
    matcher = begin(StructuredOutputs(regex="[ab]+"), min_tokens=2, stop_token_ids=[b])
    assert b not in allowed(matcher)
    matcher.take(0, a)
    matcher.take(1, a)
    assert b in allowed(matcher)
