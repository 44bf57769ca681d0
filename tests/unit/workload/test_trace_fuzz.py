"""Whatever is in a file, reading it gives a trace that keeps the rules, or an error of ours that names the file."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastserve.errors import InvalidArgumentError
from fastserve.workload import Trace, read_trace, replay

HEADERS = (
    "arrival_s,prompt_tokens,output_tokens,priority,conversation",
    "arrival_s,prompt_tokens,output_tokens,priority,conversation,prompt_token_ids",
    "TIMESTAMP,ContextTokens,GeneratedTokens",
    "num_prefill_tokens,num_decode_tokens,x",
    "input_tokens,output_tokens",
)
FIELDS = st.one_of(
    st.sampled_from(["0", "1", "7", "-1", "1e3", "1.5", "nan", "inf", "", " ", '"', '"3"', "1e30", "0x1", "1_0", "7 8",
                     "2023-11-16 18:17:03.9", "2023-11-16T18:17:03Z", "2023-13-40", "\x00", "é", "\ufeff", "#"]),
    st.text(max_size=5),
    st.integers(1, 50).map(str),
)  # fmt: skip
ROWS = st.lists(st.lists(FIELDS, max_size=7).map(",".join), max_size=5).map("\n".join)
FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def check(path: Path) -> None:
    try:
        trace = read_trace(path)
    except InvalidArgumentError as error:
        assert path.name in str(error)
        return
    assert isinstance(trace, Trace) and len(trace) >= 1
    assert trace.prompt_tokens.min() >= 1 and trace.output_tokens.min() >= 1
    if trace.arrival_s is not None:
        try:
            assert replay(trace, name="t", seed=0).arrival_s[0] == 0.0
        except InvalidArgumentError as error:  # turns that do not share their prefix
            assert "must cover" in str(error)


@FUZZ
@given(header=st.sampled_from(HEADERS), rows=ROWS, end=st.sampled_from(["\n", "\r\n", ""]))
def test_rows_of_any_kind(tmp_path, header, rows, end):
    path = tmp_path / "t.csv"
    path.write_text(header + "\n" + rows.replace("\n", end or "\n") + end, encoding="utf-8", errors="surrogateescape")
    check(path)


@FUZZ
@given(data=st.binary(max_size=60), header=st.sampled_from(("", *HEADERS)))
def test_bytes_of_any_kind(tmp_path, data, header):
    path = tmp_path / "t.csv"
    path.write_bytes(header.encode() + b"\n" * bool(header) + data)
    check(path)


def test_folder_is_not_a_trace(tmp_path):
    with pytest.raises(InvalidArgumentError, match="cannot be read"):
        read_trace(tmp_path)
