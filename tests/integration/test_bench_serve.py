"""`fastserve bench` against a real server of a tiny model, and its recording read back."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastserve.cli.main import main
from fastserve.workload import read_trace
from tests.checkpoints import tiny_checkpoint
from tests.integration.test_server_whole_chain import serve

LOAD = ("--num-prompts", "24", "--random-input-len", "20", "--random-output-len", "12", "--random-range-ratio", "0.5",
        "--request-rate", "60", "--vocab-size", "500", "--ignore-eos", "--num-warmups", "0")  # fmt: skip


def bench(url: str, folder: Path, *flags: str) -> dict[str, object]:
    """Run `bench serve` in this process; returns its figures."""
    words = ["--base-url", url, "--save-detailed", "--result-dir", str(folder), "--result-filename", "r.json", *flags]
    assert main(["bench", "serve", *words]) == 0
    return json.loads((folder / "r.json").read_text())


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], dict[str, object], Path]:
    """Figures of a load, those of its recording replayed at five times its pace, and the recording."""
    folder = tmp_path_factory.mktemp("bench")
    with serve("--record", str(folder / "trace.csv"), "--record-prompts") as (_, http, _):
        url = str(http.base_url).rstrip("/")
        first = bench(url, folder, *LOAD)
        recorded = folder / "first.csv"
        recorded.write_text((folder / "trace.csv").read_text())
        again = bench(url, folder, "--replay", str(recorded), "--replay-speed", "5", "--ignore-eos", "--num-warmups", "1",
                      "--vocab-size", "500")  # fmt: skip
    return first, again, recorded


def test_load_through_http_completes_with_the_lengths_asked_for(measured):
    first, _, _ = measured
    assert first["completed"] == 24 and first["failed"] == 0 and first["model_id"] == "tiny"
    assert all(10 <= length <= 30 for length in first["input_lens"])
    assert all(6 <= length <= 18 for length in first["output_lens"])
    assert first["total_output_tokens"] == sum(first["output_lens"])
    assert all(0 < ttft <= e2el for ttft, e2el in zip(first["ttfts"], first["latencies"], strict=True))
    gaps = [len(gaps) for gaps in first["itls"]]  # tokens that come together are one piece
    assert any(gaps) and all(count < tokens for count, tokens in zip(gaps, first["output_lens"], strict=True))
    assert first["mean_tpot_ms"] > 0 and first["p99_normalized_ms"] >= first["median_normalized_ms"]


def test_recording_holds_what_the_client_sent(measured):
    first, _, path = measured
    trace = read_trace(path)
    assert len(trace) == 24 and len(set(trace.conversation)) == 24
    assert sorted(trace.prompt_tokens) == sorted(first["input_lens"])
    assert sorted(trace.output_tokens) == sorted(first["output_lens"])
    sent = np.array(first["start_times"])
    np.testing.assert_allclose(np.diff(trace.arrival_s), np.diff(np.sort(sent)), atol=0.2)


def test_recording_is_replayed(measured):
    first, again, path = measured
    assert again["completed"] == 24 and sorted(again["output_lens"]) == sorted(first["output_lens"])
    due = np.array(again["due_times"])
    np.testing.assert_allclose(due, (read_trace(path).arrival_s - read_trace(path).arrival_s[0]) / 5)


def test_offline_benchmarks_run_the_engine(tmp_path):
    path = tmp_path / "o.json"
    engine = ("--num-threads", "1", "--kv-gib", "0.1", "--host-kv-gib", "0.1", "--output-json", str(path))
    lengths = ("--num-prompts", "5", "--random-input-len", "9", "--random-output-len", "4")
    assert main(["bench", "throughput", str(tiny_checkpoint("llama")), *lengths, *engine]) == 0
    assert json.loads(path.read_text())["total_num_tokens"] == 5 * 13
    batch = ("--batch-size", "2", "--output-len", "3", "--num-iters", "2", "--num-iters-warmup", "1")
    assert main(["bench", "latency", str(tiny_checkpoint("llama")), *batch, *engine]) == 0
    assert json.loads(path.read_text())["avg_latency"] > 0
