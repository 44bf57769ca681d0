"""Sampling parameters out of their range are refused with the field, the rule and the value."""

import dataclasses
import math
import re

import numpy as np
import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.types import MAX_GRAMMAR_CHARS, SamplingParams, SchedulingParams, StructuredOutputs
from tests.unit.ops.sampling_batch import sample, settings

NAN, INF = math.nan, math.inf
BAD = {
    "max_tokens": ([-1, 2**31, 1.0, True], "must be an integer between 0 and 2147483647"),
    "min_tokens": ([-1, 2**31, None], "must be an integer between 0 and 2147483647"),
    "temperature": ([-0.1, 100.1, NAN, INF, "1", True], "must be a number between 0 and 100"),
    "top_k": ([-2, 2**31, 0.5], "must be an integer between -1 and 2147483647"),
    "top_p": ([-0.1, 1.1, NAN], "must be a number between 0 and 1"),
    "min_p": ([-0.1, 1.1, NAN], "must be a number between 0 and 1"),
    "repetition_penalty": ([-1.0, 0.0, 1e-300, 9e-7, 10.1, NAN, INF], "must be a number between 1e-06 and 10"),
    "presence_penalty": ([-2.1, 2.1, NAN], "must be a number between -2 and 2"),
    "frequency_penalty": ([-2.1, 2.1, NAN], "must be a number between -2 and 2"),
    "seed": ([2**63, -(2**63) - 1, 0.5], "must be an integer between"),
    "stop": ([("a",) * 17, ("",), (1,)], "must be at most 16 non-empty strings"),
    "stop_token_ids": ([(-1,), (2**31,), (0.5,)], "must be an integer between 0 and 2147483647"),
    "ignore_eos": ([], ""),  # any truth value, as are the next two
    "include_stop_str_in_output": ([], ""),
    "skip_special_tokens": ([], ""),
    "logit_bias": ([], ""),  # the next three: see below
    "allowed_token_ids": ([], ""),
    "bad_words": ([], ""),
    "logprobs": ([-1, 21, True], "must be an integer between 0 and 20"),
    "prompt_logprobs": ([-1, 21, True], "must be an integer between 0 and 20"),
    "structured_outputs": (["{}", {"json": "{}"}], "must be StructuredOutputs"),
    "n": ([0, -1, 129, 10**9, NAN], "must be an integer between 1 and 128"),
}


@pytest.mark.parametrize(
    ("field", "value", "rule"), [(field, value, rule) for field, (values, rule) in BAD.items() for value in values]
)
def test_a_bad_value_is_refused_with_its_field_the_rule_and_the_value(field, value, rule):
    with pytest.raises(InvalidArgumentError, match=f"^{field} {rule}") as caught:
        SamplingParams(**{field: value})
    bad = value[0] if field == "stop_token_ids" else value
    assert str(caught.value).endswith(f"got {bad!r}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logit_bias": dict.fromkeys(range(1025), 0.0)}, "logit_bias must name at most 1024 tokens, got 1025"),
        ({"logit_bias": {-1: 0.0}}, "logit_bias must be an integer between 0 and 2147483647, got -1"),
        ({"logit_bias": {"5": 0.0}}, "logit_bias must be an integer between 0 and 2147483647, got '5'"),
        ({"logit_bias": {5: 100.5}}, "logit_bias must be a number between -100 and 100, got 100.5"),
        ({"logit_bias": {5: NAN}}, "logit_bias must be a number between -100 and 100, got nan"),
        ({"allowed_token_ids": ()}, "allowed_token_ids must hold between 1 and 1024 ids, got 0"),
        ({"allowed_token_ids": (1,) * 1025}, "allowed_token_ids must hold between 1 and 1024 ids, got 1025"),
        ({"allowed_token_ids": (-1,)}, "allowed_token_ids must be an integer between 0 and 2147483647, got -1"),
        ({"bad_words": ("a",) * 129}, "bad_words must be at most 128 words of 1 to 256 characters, got "),
        ({"bad_words": (" ",)}, "bad_words must be at most 128 words of 1 to 256 characters, got "),
        ({"bad_words": ("x" * 257,)}, "bad_words must be at most 128 words of 1 to 256 characters, got "),
    ],
)
def test_lists_of_tokens_and_words_are_refused_with_their_rule(fields, message):
    with pytest.raises(InvalidArgumentError, match="^" + re.escape(message)):
        SamplingParams(**fields)


@pytest.mark.parametrize(
    "field", sorted(name for name, (values, _) in BAD.items() if values and not isinstance(values[0], tuple))
)
@pytest.mark.parametrize("value", [10**400, -(10**400), 10**5000], ids=["large", "negative", "too long to print"])
def test_an_integer_beyond_every_float_is_refused_like_any_other(field, value):
    with pytest.raises(InvalidArgumentError, match=f"^{field} must be .* got "):
        SamplingParams(**{field: value})


EDGES = {
    "temperature": (0.0, 5e-324, 1e-300, 1e-45, 100.0),
    "top_p": (5e-324, 1e-300, 1e-45, 1.0 - 2**-53, 1.0),
    "min_p": (0.0, 5e-324, 1e-300, 1e-45, 1.0),
    "repetition_penalty": (1e-6, 10.0),
    "presence_penalty": (-2.0, -5e-324, -0.0, 5e-324, 2.0),
    "frequency_penalty": (-2.0, -5e-324, -0.0, 5e-324, 2.0),
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in EDGES.items() for value in values])
def test_what_is_accepted_is_in_the_range_of_the_sampler_as_a_float32(field, value):
    logits = np.array([[1.0, -2.0, 3.0, 0.5]], np.float32)
    chosen = getattr(SamplingParams(**{field: value}), field)
    tokens = sample(logits, settings(1, **{field: chosen}, prompts=[[0, 1]], outputs=[[2, 2]]))
    assert 0 <= tokens[0] < 4


def test_every_field_has_bad_values():
    assert BAD.keys() == {field.name for field in dataclasses.fields(SamplingParams)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"max_tokens": 3, "min_tokens": 4}, r"min_tokens must not be above max_tokens \(3\), got 4"),
        ({"stop_token_ids": tuple(range(65))}, "stop_token_ids must hold at most 64 ids, got 65"),
    ],
)
def test_rules_beyond_the_range(fields, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SamplingParams(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"priority": 2**31}, "priority must be an integer between"),
        ({"deadline_s": -1.0}, "deadline_s must be a number between"),
        ({"deadline_s": NAN}, "deadline_s must be a number between"),
        ({"max_pause_s": 0.0}, "max_pause_s must be a number between"),
        ({"ttft_slo_s": 0.0}, "ttft_slo_s must be a number between"),
        ({"ttft_slo_s": NAN}, "ttft_slo_s must be a number between"),
        ({"tpot_slo_s": -0.05}, "tpot_slo_s must be a number between"),
    ],
)
def test_bad_scheduling_parameters_are_refused(fields, message):
    with pytest.raises(InvalidArgumentError, match=message):
        SchedulingParams(**fields)


def test_a_deadline_counts_from_arrival():
    assert SchedulingParams(deadline_s=3.0, priority=2).after(1.0) == SchedulingParams(deadline_s=2.0, priority=2)
    assert SchedulingParams(deadline_s=3.0).after(4.0).deadline_s == 0.0
    assert SchedulingParams(priority=2).after(4.0) == SchedulingParams(priority=2)


ONE_OF = "structured_outputs must set exactly one of json, json_object, regex, choice, grammar, structural_tag, got "


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, ONE_OF + "none"),
        ({"json": "{}", "regex": "a"}, ONE_OF + "json, regex"),
        ({"json_object": True, "choice": ("a",)}, ONE_OF + "json_object, choice"),
        ({"json_object": 1}, "structured_outputs.json_object must be true or false, got 1"),
        ({"json": {"type": "object"}}, "structured_outputs.json must be a non-empty text, got {'type': 'object'}"),
        ({"regex": ""}, "structured_outputs.regex must be a non-empty text, got ''"),
        ({"choice": ("a", "")}, "structured_outputs.choice must be non-empty texts, got ('a', '')"),
        ({"choice": ["a"]}, "structured_outputs.choice must be non-empty texts, got ['a']"),
        ({"choice": ("a",) * 1025}, "structured_outputs.choice must be at most 1024 texts, got 1025"),
        ({"grammar": "a" * (MAX_GRAMMAR_CHARS + 1)}, "structured_outputs.grammar must have at most 131072 characters, got 131073"),
        ({"choice": ("a" * MAX_GRAMMAR_CHARS, "b")}, "structured_outputs.choice must have at most 131072 characters, got 131073"),
    ],
)  # fmt: skip
def test_a_form_of_the_output_has_one_field_within_its_bounds(fields, message):
    with pytest.raises(InvalidArgumentError) as caught:
        StructuredOutputs(**fields)
    assert str(caught.value) == message


def test_every_form_of_the_output_can_be_asked_for():
    for fields in (
        {"json": "{}"},
        {"json_object": True},
        {"regex": "a+"},
        {"choice": ("a", "b")},
        {"grammar": 'root ::= "a"'},
        {"structural_tag": "{}"},
    ):
        form = StructuredOutputs(**fields)
        assert SamplingParams(structured_outputs=form).structured_outputs is form
