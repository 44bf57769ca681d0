"""A workload checks itself, is read-only, and gives the same prompts for the same seed."""

import numpy as np
import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.workload import Workload

TALK = {"prompt_tokens": [10, 5, 30, 60], "output_tokens": [5, 5, 20, 7], "conversation": [4, -1, 4, 4]}


def workload(**changes: object) -> Workload:
    n = len(changes.get("prompt_tokens", TALK["prompt_tokens"]))
    fields = {"arrival_s": np.arange(n) * 0.5, "priority": np.zeros(n, int), **TALK, **changes}
    return Workload(name="t", **{k: np.array(v) if isinstance(v, list) else v for k, v in fields.items()})


def test_columns_have_their_types_and_are_read_only():
    mine = np.arange(4.0)
    made = workload(arrival_s=mine)
    assert made.arrival_s.dtype == np.float64
    assert {made.prompt_tokens.dtype, made.output_tokens.dtype, made.priority.dtype} == {np.dtype(np.int32)}
    assert made.conversation.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        made.prompt_tokens[0] = 1
    mine[0] = 0.5  # the caller's own array stays writable and apart
    assert made.arrival_s[0] == 0.0 and len(made) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arrival_s": [0.0, 2.0, 1.0, 3.0]}, "arrival_s must not decrease, got 1.0 in row 2"),
        ({"arrival_s": [0.0, np.nan, 1.0, 3.0]}, "arrival_s must be >= 0, got nan in row 1"),
        ({"arrival_s": [-1.0, 0.0, 1.0, 3.0]}, "arrival_s must be >= 0"),
        ({"prompt_tokens": [10, 0, 30, 60]}, "prompt_tokens must be at least 1, got 0 in row 1"),
        ({"output_tokens": [5, 5, 20, 0]}, "output_tokens must be at least 1, got 0 in row 3"),
        ({"output_tokens": [5, 5, 20, 2**31]}, "output_tokens must fit int32, got 2147483648 in row 3"),
        ({"output_tokens": [5.0, 5.0, 20.0, 1.5]}, "output_tokens must hold integers"),
        ({"conversation": [4, -2, 4, 4]}, "conversation must be at least -1, got -2 in row 1"),
        ({"prompt_tokens": [10, 5, 14, 60]}, "must cover prompt and output of the turn before it, got 14 in row 2"),
        ({"priority": [0, 0]}, "priority must have 4 rows"),
        ({"seed": -1}, "the seed must be between"),
        ({"prompts": (np.arange(3),) * 4}, "must have prompt_tokens ids, got 3 in row 0"),
    ],
)
def test_broken_rules_are_named(changes, message):
    with pytest.raises(InvalidArgumentError, match=message.replace("(", r"\(")):
        workload(**changes)


def test_empty_workload_is_one():
    empty = workload().head(0)
    assert len(empty) == 0 and len(empty.scaled(2.0)) == 0


def test_prompts_depend_on_seed_and_row_alone():
    made = workload()
    first = made.prompt_ids(1, 100)
    assert first.dtype == np.int32 and first.shape == (5,) and first.min() >= 3 and first.max() < 100
    np.testing.assert_array_equal(first, workload().prompt_ids(1, 100))
    assert (first != workload(seed=1).prompt_ids(1, 100)).any()
    with pytest.raises(InvalidArgumentError, match="between 0 and 3, got 4"):
        made.prompt_ids(4, 100)


def test_requests_that_are_not_there_have_no_ids():
    for call in (workload().prompt_ids, workload().output_ids):
        with pytest.raises(InvalidArgumentError, match="between 0 and 3, got -1"):
            call(-1, 100)


def test_part_keeps_times_and_prompts():
    made, part = workload(), workload()[1:3]
    np.testing.assert_array_equal(part.arrival_s, [0.5, 1.0])
    for i in range(2):
        np.testing.assert_array_equal(part.prompt_ids(i, 100), made.prompt_ids(i + 1, 100))
    np.testing.assert_array_equal(part[1:].prompt_ids(0, 100), made.prompt_ids(2, 100))
    assert len(made.head(2)) == 2 and len(made.head(9)) == 4
    with pytest.raises(InvalidArgumentError, match="step 1"):
        made[::2]


def test_later_turn_begins_with_prompt_and_output_of_the_turn_before():
    made = workload()
    for former, later in ((0, 2), (2, 3)):
        before = np.concatenate([made.prompt_ids(former, 500), made.output_ids(former, 500)])
        np.testing.assert_array_equal(made.prompt_ids(later, 500)[: len(before)], before)
    np.testing.assert_array_equal(made.former_turn(), [-1, -1, 0, 2])
    assert len(made.output_ids(1, 500)) == 5


@pytest.mark.parametrize("vocab_size", [1, 3, 4])
def test_smallest_vocabularies_work(vocab_size):
    assert workload().prompt_ids(0, vocab_size).max() < vocab_size


@pytest.mark.parametrize("factor", [0.01, 0.25, 1.0, 3.7])
def test_scaled_conversations_still_share_prefixes(factor):
    rng = np.random.default_rng(0)
    turns, prompt, output, conversation = 40, [], [], []
    for number in range(50):
        total = 0
        for _ in range(turns // 10):
            prompt.append(total + int(rng.integers(1, 100)))
            output.append(int(rng.integers(1, 300)))
            conversation.append(number)
            total = prompt[-1] + output[-1]
    scaled = workload(prompt_tokens=prompt, output_tokens=output, conversation=conversation).scaled(factor)
    assert scaled.prompt_tokens.min() >= 1 and scaled.output_tokens.min() >= 1
    if factor >= 0.25:  # rounding is small against the sum
        assert scaled.output_tokens.sum() == pytest.approx(factor * sum(output), rel=0.01)
        assert scaled.prompt_tokens.sum() == pytest.approx(factor * sum(prompt), rel=0.02)


def test_recorded_prompts_are_given_back_and_checked_against_the_vocabulary():
    prompts = tuple(np.arange(n, dtype=np.int32) for n in TALK["prompt_tokens"])
    made = workload(prompts=prompts)
    np.testing.assert_array_equal(made[1:].prompt_ids(0, 100), np.arange(5))
    with pytest.raises(InvalidArgumentError, match="below the vocabulary's 4, request 1 has 4"):
        made.prompt_ids(1, 4)
    assert made.scaled(2.0).prompts is None
