"""Items that hang, die or lose the GPU cost themselves alone, in benchmarks and among tests."""

import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import progress
from bench.gpu.progress import DEVICE_LOST, Progress, run_item, run_to_the_end
from bench.gpu.run_tests import Collector, files_with_gpu_tests, parts, run_part

ROOT = Path(__file__).parents[3]
WORKER = """
import os, sys, time
from pathlib import Path
from bench.gpu.progress import Progress
progress = Progress(Path(sys.argv[1]))
def die(): os._exit(9)
def hang(): time.sleep(60)
def lose():
    progress.end("lost", "failed")
    os._exit(70)
for name, work in {"first": int, "dies": die, "hangs": hang, "lost": lose, "last": int}.items():
    if progress.begin(name):
        work()
        progress.end(name)
progress.done()
"""


def test_every_item_but_those_at_fault_is_done_once(tmp_path):
    path = tmp_path / "items.jsonl"
    assert run_to_the_end([sys.executable, "-c", WORKER, str(path)], path, stall_s=2.0)
    outcomes = {name: item["outcome"] for name, item in Progress(path).ended.items()}
    assert outcomes == {
        "first": "ok", "dies": "ended its process (9)", "hangs": "hung", "lost": "failed", "last": "ok"}  # fmt: skip
    assert path.read_text().count('"end": "first"') == 1


def test_a_command_that_does_not_get_on_is_given_up(tmp_path):
    assert not run_to_the_end([sys.executable, "-c", "raise SystemExit(1)"], tmp_path / "items.jsonl")


def test_a_command_whose_every_item_is_at_fault_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "MOST_PROCESSES", 2)
    path = tmp_path / "items.jsonl"
    assert not run_to_the_end([sys.executable, "-c", WORKER.replace("int", "die"), str(path)], path)
    assert path.read_text().count("ended its process") == 2


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text('{"begin": "a"}\n{"end": "a", "outcome": "ok"}\n{"begin": "b"}\n{"end": "b", "outc')
    items = Progress(path)
    assert items.open == "b"
    items.end("b")
    assert Progress(path).ended.keys() == {"a", "b"}


def test_an_error_is_the_outcome_of_its_item(tmp_path):
    items = Progress(tmp_path / "items.jsonl")

    def fail():
        raise ValueError("no such shape")

    assert run_item(items, "a", fail) is None
    assert run_item(items, "b", lambda: {"rate": 3}) == {"rate": 3}
    assert run_item(items, "b", fail) is None  # done before
    assert items.ended["a"]["error"] == "ValueError: no such shape"


def test_a_lost_gpu_ends_the_process(tmp_path, monkeypatch):
    codes = []

    def lost():
        raise torch.AcceleratorError("an illegal memory access was encountered", 700)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    monkeypatch.setattr("os._exit", codes.append)
    run_item(Progress(tmp_path / "items.jsonl"), "a", lost)
    assert codes == [DEVICE_LOST]


TESTS = """
import os, pytest, time
def test_right(): pass
def test_wrong(): assert 1 == 2, "one is not two"
def test_dies(): os._exit(9)
def test_hangs(): time.sleep(60)
@pytest.mark.skip(reason="not here")
def test_skipped(): pass
def test_last(): pass
"""


@pytest.fixture
def outcomes_of(tmp_path, monkeypatch):
    """Run a file of tests as the GPU check does; returns names and outcomes."""

    def run(text):
        monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))
        file = tmp_path / "test_example.py"
        file.write_text(text)
        finished = run_part((str(file), ""), 0, tmp_path, "not gpu", 4.0)
        collector = Collector(tmp_path, tmp_path / "all.json")
        collector.collect()
        return finished, {
            name.rpartition("::")[2]: item for name, item in Progress(tmp_path / "all.json").ended.items()
        }

    return run


@pytest.mark.slow
def test_each_test_has_its_outcome_whatever_the_others_do(outcomes_of, capsys):
    finished, items = outcomes_of(TESTS)
    assert finished
    assert {name: item["outcome"] for name, item in items.items()} == {
        "test_right": "passed", "test_wrong": "failed", "test_dies": "ended its process (9)", "test_hangs": "hung",
        "test_skipped": "skipped", "test_last": "passed",
    }  # fmt: skip
    assert "one is not two" in items["test_wrong"]["text"]
    assert "one is not two" in capsys.readouterr().out


def test_a_file_that_cannot_be_imported_is_reported(outcomes_of):
    finished, items = outcomes_of("import a_package_that_is_not_there")
    assert not finished
    assert items == {}


def test_files_with_gpu_tests_are_found_and_long_ones_cut():
    files = files_with_gpu_tests(ROOT)
    assert "tests/unit/ops/test_norm.py" in files  # by its fixture
    assert "tests/integration/test_device_runner.py" in files
    assert not [file for file in files if "server" in file or "bench" in file]
    cut = parts(files, "gpu and not slow")
    backends = ["cuda-naive", "cuda-torch", "cuda-mma", "cuda-native"]
    words = [word for file, word in cut if file.endswith("test_attention_devices.py")]
    assert words == [*backends, f"not ({' or '.join(backends)})"]
    assert {file for file, _ in cut} == set(files)
    assert cut[0] == ("tests/unit/ops/test_attention_check.py", "native")  # what tells most comes first
