"""Trace files: four formats, and errors that name file, line, column, value and rule."""

import time
from pathlib import Path

import numpy as np
import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.workload import NO_CONVERSATION, Arrivals, draw_conversations, read_trace, replay, write_trace

OURS = "arrival_s,prompt_tokens,output_tokens,priority,conversation\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"


def write(folder: Path, text: str) -> Path:
    path = folder / "trace.csv"
    path.write_bytes(text.encode())
    return path


def test_azure_trace_gives_seconds_from_its_first_request(tmp_path):
    rows = "2023-11-16 18:17:04.9799600,4808,10\r\n2023-11-16 18:17:03.9799600,7,8\r\n\r\n2024-05-10 00:00:00+00:00,9,1"
    trace = read_trace(write(tmp_path, AZURE + rows))
    np.testing.assert_allclose(trace.arrival_s[:2], [0.0, 1.0])
    np.testing.assert_array_equal(trace.prompt_tokens, [7, 4808, 9])
    np.testing.assert_array_equal(trace.output_tokens, [8, 10, 1])
    assert set(trace.conversation) == {NO_CONVERSATION}


def test_sharegpt_turns_are_grouped_into_conversations(tmp_path):
    text = (
        "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n10,5,15,2\n15,5,20,1\n30,1,31,1\n30,9,39,1\n"
    )
    trace = read_trace(write(tmp_path, text + "5,5,10,1\n"))
    np.testing.assert_array_equal(trace.conversation, [0, 0, 0, 1, 2])
    assert trace.arrival_s is None


def test_lengths_alone_have_no_times(tmp_path):
    trace = read_trace(write(tmp_path, "input_tokens,output_tokens\n74,918\n290,905\n"))
    np.testing.assert_array_equal(trace.output_tokens, [918, 905])
    with pytest.raises(InvalidArgumentError, match="a replay needs a trace with arrival times"):
        replay(trace, name="t", seed=0)


def test_own_format_is_sorted_by_arrival_and_may_lack_the_last_columns(tmp_path):
    trace = read_trace(write(tmp_path, OURS + "2.5,7,8,1,3\n0.25,5,6,-2,-1\n"))
    np.testing.assert_array_equal(trace.arrival_s, [0.25, 2.5])
    np.testing.assert_array_equal(trace.priority, [-2, 1])
    np.testing.assert_array_equal(trace.conversation, [-1, 3])
    short = read_trace(write(tmp_path, "output_tokens,prompt_tokens,arrival_s\n1,2,3\n"))
    assert (short.prompt_tokens[0], short.output_tokens[0], short.arrival_s[0]) == (2, 1, 3.0)
    assert (short.priority[0], short.conversation[0]) == (0, NO_CONVERSATION)


def test_what_is_written_is_read_back_exactly(tmp_path):
    text = "num_prefill_tokens,num_decode_tokens\n" + "".join(f"{10 + i % 7},{3 + i % 5}\n" for i in range(200))
    source = read_trace(write(tmp_path, text))
    made = draw_conversations(source, 300, Arrivals(rate=3.0, think_time_s=2.0), name="t", seed=5)
    write_trace(tmp_path / "again.csv", made)
    trace = read_trace(tmp_path / "again.csv")
    for name in ("arrival_s", "prompt_tokens", "output_tokens", "priority", "conversation"):
        np.testing.assert_array_equal(getattr(trace, name), getattr(made, name))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            OURS + "0,1,2,0,-1\n\n1,0,2,0,-1\n",
            r"trace.csv:4: prompt_tokens must be a whole number between 1 and .*, got 0",
        ),
        (OURS + "0,1,2.5,0,-1\n", "trace.csv:2: output_tokens must be a whole number .*, got 2.5"),
        (OURS + "0,1,nan,0,-1\n", "trace.csv:2: output_tokens must be a whole number .*, got nan"),
        (OURS + "0,1,2,0,-2\n", "trace.csv:2: conversation must be a whole number .*, got -2"),
        (OURS + "0,1,2,9e9,-1\n", r"trace.csv:2: priority must be a whole number .*, got 9e\+09"),
        (OURS + "-1,1,2,0,-1\n", "trace.csv:2: arrival_s must be at least 0 and finite, got -1"),
        (OURS + "0,1,2,0,-1\n0,1,two,0,-1\n", "trace.csv:3: output_tokens must be a number, got 'two'"),
        (OURS + "0,1,2,0,-1\n0,1\n", "trace.csv:3: output_tokens is missing; the line has 2 of 5 fields"),
        (OURS + "0,1,,0,-1\n", "trace.csv:2: output_tokens must be a number, got ''"),
        (OURS, "trace.csv: a trace must have at least one request, got none"),
        (AZURE, "a trace must have at least one request"),
        (AZURE + "yesterday,1,2\r\n", "trace.csv:2: TIMESTAMP must be a date and time, got 'yesterday'"),
        (AZURE + ",1,2\r\n", "trace.csv:2: TIMESTAMP must be a date and time"),
        ("a,b\n1,2\n", "trace.csv:1: a trace must have the columns arrival_s,prompt_tokens.*, got a,b"),
        ("", "trace.csv:1: a trace must begin with a line of column names"),
    ],
)
def test_bad_rows_are_named_with_file_line_value_and_rule(tmp_path, text, message):
    with pytest.raises(InvalidArgumentError, match=message):
        read_trace(write(tmp_path, text))


def test_recorded_prompt_may_be_long(tmp_path):
    ids = " ".join(["100000"] * 50_000)
    trace = read_trace(write(tmp_path, OURS[:-1] + f",prompt_token_ids\n0,50000,1,0,-1,{ids}\n"))
    assert len(trace.prompts[0]) == 50_000


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"none.csv cannot be read"):
        read_trace(tmp_path / "none.csv")


def test_two_hundred_thousand_rows_are_read_in_a_moment(tmp_path):
    path = write(tmp_path, OURS + "".join(f"{i / 7!r},{i % 900 + 1},{i % 77 + 1},0,-1\n" for i in range(200_000)))
    start_s = time.process_time()
    assert len(read_trace(path)) == 200_000
    assert time.process_time() - start_s < 2.0  # 0.1 s on an idle core


def test_recorded_prompts_are_read(tmp_path):
    header = OURS[:-1] + ",prompt_token_ids\n"
    trace = read_trace(write(tmp_path, header + "3,2,4,0,-1,7 8\n\n1,1,4,0,-1,9\n"))
    assert [ids.tolist() for ids in trace.prompts] == [[9], [7, 8]]  # in the order of arrival
    made = replay(trace, name="t", seed=0)
    np.testing.assert_array_equal(made.prompt_ids(1, 10), [7, 8])
    for ids in ("7", "7 x", "7 -8", "", "7 99999999999"):
        with pytest.raises(InvalidArgumentError, match=r"trace.csv:2: prompt_token_ids must be 2 token ids"):
            read_trace(write(tmp_path, header + f"3,2,4,0,-1,{ids}\n"))
