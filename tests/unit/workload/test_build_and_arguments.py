"""Rows are drawn fairly, conversations stay together and in order, and every flag changes the workload."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.workload import (
    Arrivals,
    RampUp,
    Workload,
    add_workload_arguments,
    draw_conversations,
    draw_priorities,
    draw_requests,
    lengths_alone,
    read_trace,
    workload_from,
)


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Conversations of 1, 2, 3, 1, 2, 3 ... turns."""
    path = tmp_path / "talks.csv"
    rows = ["num_prefill_tokens,num_decode_tokens"]
    for number in range(60):
        total = 0
        for _ in range(number % 3 + 1):
            rows.append(f"{total + 20 - total % 2},{10 + number}")
            total += 30 + number - total % 2
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def timed(tmp_path: Path) -> Path:
    path = tmp_path / "timed.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens,priority\n" + "".join(
        f"{10 + i * 2},{10 * (i + 1)},{i + 1},{i % 2}\n" for i in range(10)
    ))  # fmt: skip
    return path


def build(*flags: object) -> Workload:
    parser = argparse.ArgumentParser()
    add_workload_arguments(parser)
    return workload_from(parser.parse_args([str(flag) for flag in flags]))


def test_every_row_is_drawn_once_before_any_comes_twice():
    trace = lengths_alone(np.arange(1, 11), np.arange(11, 21))
    drawn = draw_requests(trace, 25, Arrivals(rate=1.0), name="t", seed=0)
    assert np.bincount(drawn.prompt_tokens, minlength=11)[1:].max() == 3
    assert np.bincount(drawn.prompt_tokens, minlength=11)[1:].min() == 2
    np.testing.assert_array_equal(drawn.output_tokens, drawn.prompt_tokens + 10)


def test_conversations_stay_in_order_and_keep_the_rate(talks):
    drawn = draw_conversations(read_trace(talks), 20_000, Arrivals(rate=50.0, think_time_s=1.0), name="t", seed=0)
    assert len(drawn) == 20_000
    former = drawn.former_turn()
    assert (drawn.arrival_s[former >= 0] >= drawn.arrival_s[former[former >= 0]]).all()
    assert (former >= 0).mean() == pytest.approx(0.5, abs=0.02)  # 3 later turns among 6
    assert len(drawn) / drawn.arrival_s[-1] == pytest.approx(50.0, rel=0.03)


def test_conversations_ramp_up_as_requests_do(talks):
    ramp = RampUp(strategy="linear", start_rps=10.0, end_rps=90.0)
    arrivals = Arrivals(burstiness=float("inf"), think_time_s=0.0, ramp_up=ramp)
    drawn = draw_conversations(read_trace(talks), 20_000, arrivals, name="t", seed=0)
    first, last = drawn.arrival_s[1000], drawn.arrival_s[-1] - drawn.arrival_s[-1001]
    assert (1000 / first, 1000 / last) == pytest.approx((12.0, 88.0), rel=0.05)


def test_priorities_have_their_shares():
    drawn = draw_priorities({0: 0.9, 5: 0.1}, 50_000, seed=0)
    assert set(drawn) == {0, 5} and (drawn == 5).mean() == pytest.approx(0.1, abs=0.006)
    with pytest.raises(InvalidArgumentError, match="shares of priorities must be at least 0"):
        draw_priorities({0: -1.0}, 1, seed=0)


def test_defaults_are_a_thousand_equal_requests_at_once():
    made = build()
    assert (len(made), made.name) == (1000, "random")
    assert set(made.prompt_tokens) == {1024} and set(made.output_tokens) == {128} and made.arrival_s[-1] == 0.0


RAMP = ["--ramp-up-strategy", "linear", "--ramp-up-start-rps", 1, "--ramp-up-end-rps", 9]


@pytest.mark.parametrize(
    ("flags", "check"),
    [
        ([*RAMP, "--burstiness", "inf"], lambda w: np.diff(w.arrival_s)[[0, -1]] == pytest.approx([1.0, 1 / 9], rel=0.01)),
        (["--num-prompts", 7], lambda w: len(w) == 7),
        (["--random-input-len", 5], lambda w: set(w.prompt_tokens) == {5}),
        (["--random-output-len", 6], lambda w: set(w.output_tokens) == {6}),
        (["--random-range-ratio", 0.5], lambda w: w.prompt_tokens.min() < 600 and w.prompt_tokens.max() > 1400),
        (["--dataset-name", "lognormal"], lambda w: len(set(w.output_tokens)) > 100),
        (["--dataset-name", "lognormal", "--lognormal-sigma", 0], lambda w: set(w.output_tokens) == {128}),
        (["--length-scale", 0.5], lambda w: set(w.prompt_tokens) == {512}),
        (["--dataset-name", "lognormal", "--max-input-len", 100], lambda w: w.prompt_tokens.max() <= 100),
        (["--random-range-ratio", 0.9, "--max-total-len", 500], lambda w: (w.prompt_tokens + w.output_tokens).max() <= 500),
        (["--request-rate", 10], lambda w: 80 < w.arrival_s[-1] < 120),
        (["--request-rate", 10, "--burstiness", "inf"], lambda w: w.arrival_s[-1] == pytest.approx(99.9)),
        (["--request-rate", 10, "--burstiness", 0.01], lambda w: np.diff(w.arrival_s).max() > 3.0),
        (["--priority-shares", "0:1,9:1"], lambda w: set(w.priority) == {0, 9}),
        (["--request-rate", 10, "--seed", 3], lambda w: w.seed == 3 and w.arrival_s[0] != build("--request-rate", 10).arrival_s[0]),
    ],
)  # fmt: skip
def test_each_flag_does_what_it_says(flags, check):
    assert check(build(*flags))


def test_command_may_leave_arrivals_out_and_bring_a_dataset_and_a_seed(talks):
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=4)
    add_workload_arguments(parser, arrivals=False, seed=False, datasets=("custom",))
    args = parser.parse_args(["--dataset-name", "custom", "--dataset-path", "x", "--num-prompts", "3"])
    prompts = tuple(np.arange(n) for n in (1, 2))
    trace = replace(lengths_alone(np.array([1, 2]), np.array([7, 8])), prompts=prompts)
    made = workload_from(args, read_dataset=lambda given: trace if given.dataset_path == "x" else None)
    assert made.seed == 4 and made.arrival_s[-1] == 0.0
    assert [len(made.prompt_ids(i, 5)) for i in range(3)] == list(made.prompt_tokens)
    with pytest.raises(SystemExit):
        parser.parse_args(["--request-rate", "1"])


def test_trace_flags(talks, timed):
    plain = build("--dataset-path", talks, "--num-prompts", 50, "--request-rate", 5)
    assert plain.name == "talks" and set(plain.conversation) == {-1}
    turns = build("--trace", talks, "--multi-turn", "--num-prompts", 50, "--request-rate", 5)
    assert set(turns.conversation) != {-1}
    later = build("--trace", talks, "--multi-turn", "--num-prompts", 50, "--request-rate", 5, "--think-time-s", 300)
    assert later.arrival_s[-1] > 3 * turns.arrival_s[-1]
    replayed = build("--replay", timed)
    np.testing.assert_allclose(replayed.arrival_s, np.arange(10) * 2.0)
    np.testing.assert_array_equal(replayed.priority, np.arange(10) % 2)
    fast = build("--replay", timed, "--replay-speed", 4, "--num-prompts", 3)
    np.testing.assert_allclose(fast.arrival_s, [0.0, 0.5, 1.0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-prompts", 0], "--num-prompts must be at least 1, got 0"),
        (["--seed", -1], "--seed must be at least 0"),
        (["--dataset-name", "trace"], "--dataset-path goes with a --dataset-name that is a file"),
        (["--multi-turn"], "--multi-turn needs a trace"),
        ([*RAMP, "--request-rate", 3], "leave --request-rate and sweeps of it out"),
        (RAMP[:4], "--ramp-up-start-rps and --ramp-up-end-rps go together"),
        (RAMP[2:], "--ramp-up-start-rps and --ramp-up-end-rps go together"),
        ([*RAMP, "--replay", "x.csv"], "leave --ramp-up-strategy out"),
        (["--max-input-len", 10], "no request is left with a prompt of at most 10"),
        (["--priority-shares", "high"], "--priority-shares must be priority:share pairs .*, got 'high'"),
        (["--replay", "x.csv", "--request-rate", 1], "leave --request-rate out"),
        (["--replay", "x.csv", "--trace", "y.csv"], "leave --dataset-path out"),
        (["--replay", "x.csv", "--multi-turn"], "leave --multi-turn out"),
        (["--request-rate", 0], "rate must be above 0"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build(*flags)
