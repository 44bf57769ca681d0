"""Stop strings are found as by a search of the whole text, and no text is held back that need not be."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.tokenizer.stop_matcher import StopMatcher

binary = st.text("ab", min_size=1, max_size=5)


def whole_text_search(text: str, stop: Sequence[str]) -> tuple[str, str | None]:
    """Cut text at the stop string that is complete first; the longest of several."""
    for end in range(1, len(text) + 1):
        found = [s for s in stop if text[:end].endswith(s)]
        if found:
            return text[: end - len(max(found, key=len))], max(found, key=len)
    return text, None


@settings(max_examples=500)
@given(pieces=st.lists(st.text("abc", max_size=6), max_size=8), stop=st.lists(binary, min_size=1, max_size=4))
def test_the_cut_is_that_of_a_search_of_the_whole_text(pieces: list[str], stop: list[str]) -> None:
    matcher, text = StopMatcher(stop), ""
    for i, piece in enumerate(pieces):
        new, found = matcher.feed(piece)
        text += new
        assert found == whole_text_search("".join(pieces[: i + 1]), stop)[1]
        if found:
            break
        so_far = "".join(pieces[: i + 1])
        held = so_far[len(text) :]
        assert so_far.startswith(text)
        assert not held or any(s.startswith(held) and s != held for s in stop)
        assert not any(s.startswith(so_far[k:]) for s in stop for k in range(len(text)))
    else:
        text += matcher.flush()
    assert text == whole_text_search("".join(pieces), stop)[0]


@pytest.mark.parametrize(
    ("stop", "text", "cut"),
    [
        (("aab",), "aaab", "a"),
        (("abab!",), "ababab!", "ab"),
        (("aabaaac",), "aabaabaaac", "aab"),
        (("abc", "bc"), "xabc", "x"),
        (("abcd", "bc"), "abcd", "a"),
    ],
)
def test_overlapping_beginnings_are_found(stop: tuple[str, ...], text: str, cut: str) -> None:
    matcher, got = StopMatcher(stop), ""
    for character in text:
        new, found = matcher.feed(character)
        got += new
        if found:
            break
    assert (got, bool(found)) == (cut, True)


def test_a_stop_string_that_is_not_honoured_is_let_through_and_later_ones_are_found() -> None:
    matcher = StopMatcher(["aa"])
    assert matcher.feed("aa", honour=False) == ("a", None)
    assert matcher.feed("a") == ("", "aa")
