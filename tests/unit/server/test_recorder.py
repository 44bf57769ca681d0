"""The trace that a server writes of its requests."""

import asyncio

import numpy as np
import pytest

from fastserve.config import ServerConfig
from fastserve.errors import InvalidArgumentError
from fastserve.server.recorder import Recorder
from fastserve.types import FinishReason
from fastserve.workload import read_trace
from tests.unit.server.conftest import live_server, until
from tests.unit.server.fake_engine import FakeEngine, Script
from tests.unit.server.process import serve_process

HEADER = "arrival_s,prompt_tokens,output_tokens,priority,conversation"


async def test_each_finished_sequence_is_a_line_without_its_prompt(tmp_path):
    path = tmp_path / "r.csv"
    engine = FakeEngine(Script(pieces=("a", "b", "c"), finish=FinishReason.STOP))
    async with live_server(engine, ServerConfig(record=str(path))) as live:
        assert path.read_text() == HEADER + "\n"
        assert (await live.complete(prompt=[5, 6], max_tokens=2, priority=-3)).status_code == 200
        assert path.read_text().count("\n") == 2  # flushed
        await live.complete(prompt=[[7] * 3, [8] * 4], max_tokens=50, n=2)
        assert (await live.chat(max_tokens=3, stream=True)).status_code == 200
        assert (await live.complete(prompt=[5], max_tokens=10**9)).status_code == 400
    trace = read_trace(path)
    np.testing.assert_array_equal(trace.prompt_tokens[:5], [2, 3, 3, 4, 4])
    np.testing.assert_array_equal(trace.output_tokens, [2, 3, 3, 3, 3, 3])
    np.testing.assert_array_equal(trace.priority, [-3, 0, 0, 0, 0, 0])
    assert 0 <= trace.arrival_s[0] < trace.arrival_s[1] == trace.arrival_s[4] < trace.arrival_s[5] < 60
    assert len(set(trace.conversation)) == 6 and trace.prompts is None


async def test_client_that_leaves_counts_with_what_it_got(tmp_path):
    path = tmp_path / "r.csv"
    engine = FakeEngine(Script(pieces=("a",), endless=True, delay_s=0.005))
    async with live_server(engine, ServerConfig(record=str(path), record_prompts=True)) as live:
        request = live.http.build_request(
            "POST", "/v1/completions", json={"prompt": [9, 4], "stream": True, "max_tokens": 400}
        )
        stream = await live.http.send(request, stream=True)
        await anext(stream.aiter_lines())
        await stream.aclose()
        await until(lambda: path.read_text().count("\n") == 2)
    trace = read_trace(path)
    assert 1 <= trace.output_tokens[0] < 400 and trace.prompts[0].tolist() == [9, 4]


async def test_file_that_can_no_longer_be_written_ends_the_recording_and_no_request(tmp_path, caplog):
    engine = FakeEngine()
    async with live_server(engine, ServerConfig(record=str(tmp_path / "r.csv"))) as live:
        full = open("/dev/full", "w")  # noqa: SIM115
        live.serving.recorder._file.close()
        live.serving.recorder._file = full
        replies = await asyncio.gather(*(live.complete(prompt=[1]) for _ in range(3)))
        assert [reply.status_code for reply in replies] == [200] * 3 and full.closed
        live.serving.recorder.close()


def test_unwritable_or_used_file_is_refused_before_anything_starts(tmp_path):
    used = tmp_path / "used.csv"
    used.write_text("x")
    for path, message in ((tmp_path / "no" / "x.csv", "No such file or directory"), (tmp_path, "Is a directory"),
                          (used, "holds something")):  # fmt: skip
        with pytest.raises(InvalidArgumentError, match=message):
            Recorder(str(path), prompts=False)
    assert used.read_text() == "x"
    for _ in range(2):  # a start that failed later leaves a file without requests
        Recorder(str(tmp_path / "new.csv"), prompts=False).close()
    assert (tmp_path / "new.csv").read_text() == HEADER + "\n"
    assert (tmp_path / "new.csv").stat().st_mode & 0o777 == 0o600
    assert Recorder.of(ServerConfig()) is None
    with pytest.raises(InvalidArgumentError, match="--record-prompts needs a file"):
        Recorder.of(ServerConfig(record_prompts=True))


def test_command_line_records(tmp_path):
    path = tmp_path / "r.csv"
    with serve_process("--port", "0", "--record", str(path), "--record-prompts") as (_, client):
        while client.post("/v1/completions", json={"prompt": "hi", "max_tokens": 1}).status_code == 503:
            pass
    assert read_trace(path).prompts[0].tolist() == [256, 104, 105]
