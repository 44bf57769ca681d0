"""Prompts are checked before anything is sent; n completions differ only in their seed."""

import pytest

from fastserve.engine.admission import bad_word_ids, check_prompt, check_sampling, sequence_sampling
from fastserve.errors import InvalidArgumentError
from fastserve.types import SamplingParams
from tests.unit.engine.test_protocol import INFO


def test_a_good_prompt_is_kept() -> None:
    assert list(check_prompt([0, 8, 3], INFO)) == [0, 8, 3]


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ([], "at least one token"),
        ([1] * 8, "max_model_len"),
        ([9], "between 0 and 8, got 9"),
        ([3, -1], "between 0 and 8, got -1"),
        ([2**40], "must be integers"),
        (["a"], "must be integers"),
    ],
)
def test_a_bad_prompt_is_refused(prompt: list, reason: str) -> None:
    with pytest.raises(InvalidArgumentError, match=reason):
        check_prompt(prompt, INFO)


def test_the_longest_prompt_leaves_room_for_one_token() -> None:
    assert len(check_prompt([1] * 7, INFO)) == 7


def test_completions_get_different_seeds_and_the_first_keeps_its_own() -> None:
    seeds = {sequence_sampling(SamplingParams(n=16, seed=5), i).seed for i in range(16)}
    assert len(seeds) == 16
    assert sequence_sampling(SamplingParams(n=16, seed=5), 0).seed == 5
    assert sequence_sampling(SamplingParams(n=2, seed=5), 1) == sequence_sampling(SamplingParams(n=4, seed=5), 1)


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1])
def test_every_derived_seed_is_valid(seed: int) -> None:
    for index in range(16):
        assert sequence_sampling(SamplingParams(n=16, seed=seed), index).n == 1


def test_without_a_seed_the_engine_chooses() -> None:
    assert sequence_sampling(SamplingParams(n=2), 1).seed is None


def test_stop_strings_stay_in_the_frontend() -> None:
    assert sequence_sampling(SamplingParams(stop=("x",), stop_token_ids=(3,)), 0).stop == ()
    assert sequence_sampling(SamplingParams(stop=("x",), stop_token_ids=(3,)), 0).stop_token_ids == (3,)


class SpacedTokenizer:
    """Characters are tokens; a space and the letter after it are one, but for "z"; "~" is in no vocabulary."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        spaced = text.startswith(" ") and not text.startswith(" z")
        rest = text[2:] if spaced else text
        return [100 + ord(text[1])] * spaced + [900 if char == "~" else ord(char) - 90 for char in rest]


def test_bad_words_are_banned_at_the_beginning_and_within_a_text():
    found = bad_word_ids(["ab", "  ab", "zb", "a~"], SpacedTokenizer(), 300)
    assert found == ((7, 8), (100 + ord("a"), 8), (32, 8))


def test_tokens_outside_the_vocabulary_are_refused_by_their_field():
    check_sampling(SamplingParams(logit_bias={INFO.vocab_size - 1: 1.0}), INFO)
    for fields in ({"logit_bias": {1: 0.0, INFO.vocab_size: 1.0}}, {"allowed_token_ids": (1, INFO.vocab_size)}):
        with pytest.raises(
            InvalidArgumentError, match=rf"^{next(iter(fields))} must name token ids .* got {INFO.vocab_size}"
        ):
            check_sampling(SamplingParams(**fields), INFO)
