"""Stop strings are found as by a search of the whole text, and no text is held back that need not be."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.tokenizer import stop_matcher
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


def naive_feed(so_far: str, released: int, text: str, stop: Sequence[str], honour: bool) -> tuple[int, str | None]:
    """How much of `so_far + text` is out after the feed, and the stop string found: by trying everything."""
    whole = so_far + text
    if honour:
        for end in range(len(so_far) + 1, len(whole) + 1):
            found = [s for s in stop if end - len(s) >= released and whole[:end].endswith(s)]
            if found:
                longest = max(found, key=len)
                return end - len(longest), longest
    held = [k for s in stop for k in range(len(s)) if k <= len(whole) - released and whole.endswith(s[:k])]
    return len(whole) - max(held), None


@settings(max_examples=1000)
@given(
    feeds=st.lists(st.tuples(st.text("abc", max_size=6), st.booleans()), max_size=8),
    stop=st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=5),
)
def test_each_feed_is_that_of_a_naive_search(feeds: list[tuple[str, bool]], stop: list[str]) -> None:
    matcher, so_far, released = StopMatcher(stop), "", 0
    for text, honour in feeds:
        new_released, expected = naive_feed(so_far, released, text, stop, honour)
        so_far += text
        assert matcher.feed(text, honour=honour) == (so_far[released:new_released], expected)
        if expected:
            return
        released = new_released
    assert matcher.flush() == so_far[released:]


def test_completions_of_a_request_share_what_was_prepared_for_their_stop_strings(monkeypatch) -> None:
    prepared = []
    make = stop_matcher._failure_table
    monkeypatch.setattr(stop_matcher, "_failure_table", lambda text: prepared.append(text) or make(text))
    stop = ["x" * 1024, "a stop string that no other test has"]
    matchers = [StopMatcher(stop) for _ in range(128)]
    assert prepared == stop
    # They share no state.
    assert matchers[0].feed("a stop") == ("", None)
    assert matchers[1].feed("a string") == ("a string", None)
