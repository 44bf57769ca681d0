"""Reasoning is split from content exactly, wherever the text is cut, by what the prompt ends with."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.server.parsers.registry import REASONING_PARSERS
from fastserve.server.parsers.thinking import ThinkingParser
from tests.unit.server.parsers.messages import Gathered, cuts, gather

QWEN3, R1 = REASONING_PARSERS["qwen3"], REASONING_PARSERS["deepseek_r1"]
OPEN, CLOSED, PLAIN = "assistant\n<think>\n", "assistant\n<think>\n\n</think>\n\n", "assistant\n"

# (format, end of the prompt, text, reasoning, content)
WRITTEN = [
    (QWEN3, PLAIN, "<think>\nhm\n</think>\n\nYes.", "\nhm\n", "\n\nYes."),
    (QWEN3, PLAIN, "\n<think>hm</think>", "hm", ""),
    (QWEN3, PLAIN, "Yes. <think>", "", "Yes. <think>"),
    (QWEN3, PLAIN, "  <thin", "", "  <thin"),
    (QWEN3, PLAIN, "<think>cut", "cut", ""),
    (QWEN3, PLAIN, "", "", ""),
    (QWEN3, OPEN, "hm\n</think>Yes.", "hm\n", "Yes."),
    (QWEN3, OPEN, "<think>hm</think>Yes.", "hm", "Yes."),
    (QWEN3, OPEN, "cut </thi", "cut </thi", ""),
    (QWEN3, CLOSED, "Yes </think> no", "", "Yes </think> no"),
    (R1, PLAIN, "hm</think>Yes.", "hm", "Yes."),
    (R1, PLAIN, "<think>\nhm</think>Yes.</think>", "\nhm", "Yes.</think>"),
    (R1, OPEN, "\nhm</think>\n\nYes <think>", "\nhm", "\n\nYes <think>"),
    (R1, CLOSED, "Yes.", "", "Yes."),
    (R1, PLAIN, "cut", "cut", ""),
]


@pytest.mark.parametrize(("form", "prompt", "text", "reasoning", "content"), WRITTEN)
def test_text_is_split_wherever_it_is_cut(form, prompt, text, reasoning, content):
    begun = form.begun("system: <think> user: </think> " + prompt, continued=False)
    whole = Gathered(content, reasoning=reasoning)
    assert gather(ThinkingParser(begun), [text]) == whole
    assert gather(ThinkingParser(begun), text) == whole
    for place in range(len(text) + 1):
        assert gather(ThinkingParser(begun), cuts(text, place)) == whole


@settings(max_examples=200, deadline=None)
@given(
    fragments=st.lists(st.sampled_from(["<think>", "</think>", "<", "think>", "</", " ", "\n", "x"]), max_size=10),
    begun=st.sampled_from([True, False, None]),
    data=st.data(),
)
def test_any_text_is_split_the_same_however_it_is_cut(fragments, begun, data):
    text = "".join(fragments)
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=6))
    assert gather(ThinkingParser(begun), cuts(text, *places)) == gather(ThinkingParser(begun), [text])


@pytest.mark.parametrize(
    ("prompt", "begun"),
    [
        ("a: <think>hm", True),
        ("a: <think>hm</think>Yes", False),
        ("a: Yes", False),
        ("<think>hm</think>u: a: <think>", True),
    ],
)
def test_a_continued_message_reasons_if_what_there_is_of_it_does(prompt, begun):
    assert QWEN3.begun(prompt, continued=True) is begun and R1.begun(prompt, continued=True) is begun
