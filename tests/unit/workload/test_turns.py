"""Conversations are found by their tokens."""

import numpy as np
import pytest

from fastserve.workload import TurnMatcher


def ids(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, 1000, count).tolist()


def test_prompt_that_goes_on_from_an_answer_is_the_next_turn():
    matcher = TurnMatcher()
    prompt, answer = ids(0, 21), ids(1, 30)
    assert matcher.end_turn(0.0, prompt, answer) == 0
    assert matcher.end_turn(1.0, ids(2, 40), ids(3, 5)) == 1
    longer = prompt + answer + ids(4, 3)
    assert matcher.end_turn(2.0, longer, ids(5, 17)) == 0
    assert matcher.end_turn(3.0, longer + ids(5, 17) + ids(6, 50), ids(7, 3)) == 0


@pytest.mark.parametrize(
    "prompt",
    [ids(0, 21), ids(0, 21) + ids(1, 29), [*ids(0, 20), 1, *ids(1, 30)], ids(0, 21) + ids(1, 10) + ids(8, 40)],
)
def test_prompt_without_the_whole_answer_is_another_conversation(prompt):
    matcher = TurnMatcher()
    assert matcher.end_turn(0.0, ids(0, 21), ids(1, 30)) == 0
    assert matcher.end_turn(1.0, prompt, [5]) == 1


def test_turn_has_one_successor_and_none_from_before_it():
    matcher = TurnMatcher()
    prompt, answer = ids(0, 21), ids(1, 30)
    matcher.end_turn(5.0, prompt, answer)
    assert matcher.end_turn(4.0, prompt + answer, ids(2, 20)) == 1  # asked before its beginning was
    assert matcher.end_turn(6.0, prompt + answer, ids(3, 20)) == 0
    assert matcher.end_turn(7.0, prompt + answer, ids(4, 20)) == 2


def test_only_the_latest_ends_are_remembered():
    matcher = TurnMatcher(capacity=2)
    turns = [(ids(seed, 20), ids(seed + 100, 20)) for seed in range(3)]
    for i, (prompt, answer) in enumerate(turns):
        matcher.end_turn(i, prompt, answer)
    first, last = (matcher.end_turn(9.0, turns[i][0] + turns[i][1], [1]) for i in (0, 2))
    assert (first, last) == (3, 2)
