"""From a shape that fails to the smallest that does, and what ncu and compute-sanitizer are asked about it."""

import json
import sys
import time
from pathlib import Path

import pytest

from bench.gpu import profile, sanitize
from bench.gpu.narrowing import Shape, failed_shapes, narrow, simpler
from bench.gpu.progress import Progress
from bench.gpu.verdict import failed_tests, reasons

WORDS = "hopper bf16 28/4 d128 p32 260:260,700:9,1:1 far fused"


def test_a_shape_is_read_and_written_in_the_words_of_gpu_smoke():
    assert str(Shape.parse(WORDS)) == WORDS
    assert Shape.parse("decode fp16 4/2 d64 p16 17:1*3").rows == ((17, 1),) * 3


def test_every_step_is_simpler_and_can_be_read():
    for _, candidate in simpler(Shape.parse(WORDS)):
        assert Shape.parse(str(candidate)) == candidate
        assert candidate != Shape.parse(WORDS)


@pytest.mark.parametrize(
    ("at_fault", "minimal", "needed"),
    [
        (lambda s: s.page_tokens == 32, "hopper bf16 1/1 d64 p32 1:1 ordered", ["another page size than 16"]),
        (lambda s: s.num_q_heads // s.num_kv_heads == 7, "hopper bf16 7/1 d64 p16 1:1 ordered", ["groups of heads"]),
        (lambda s: "far" in s.words, "hopper bf16 1/1 d64 p16 1:1 far ordered", ["pages beyond 2^31 elements"]),
        (lambda s: max(n for n, _ in s.rows) > 64, "hopper bf16 1/1 d64 p16 65:1 ordered", None),
        (lambda s: len(s.rows) > 1, "hopper bf16 1/1 d64 p16 1:1,1:1 ordered", None),
    ],
)
def test_the_feature_at_fault_is_what_stays(at_fault, minimal, needed):
    found = narrow(Shape.parse(WORDS), at_fault, until_s=time.monotonic() + 60)
    assert found["complete"]
    assert found["minimal"] == minimal
    assert needed is None or found["needed"] == needed


def test_narrowing_ends_when_its_time_is_over():
    found = narrow(Shape.parse(WORDS), lambda shape: True, until_s=time.monotonic() - 1)
    assert not found["complete"]
    assert found["minimal"] == WORDS


def document(**stages: list[tuple[str, str]]) -> dict:
    rows = {
        stage: {"items": [{"end": name, "outcome": outcome} for name, outcome in items]}
        for stage, items in stages.items()
    }
    return {"stages": rows}


def test_the_first_failed_shape_of_each_kernel_is_taken(tmp_path):
    shapes = ["mma bf16 2/2 d64 p16 1:1", "decode bf16 2/2 d64 p16 2:1", "decode bf16 2/2 d64 p16 3:1"]
    items = [("graph", "differs"), ("mma bf16 2/2 d64 p16 9:9", "ok"), *((shape, "hung") for shape in shapes)]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(document(smoke=items)))
    assert [str(shape) for shape in failed_shapes([path, tmp_path / "none.json"])] == [shapes[1], shapes[0]]


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ({"smoke": [("a", "ok"), ("b", "left out")]}, []),
        ({"tests": [("a", "passed"), ("b", "skipped")]}, []),
        ({"smoke": [("a", "ok"), ("b", "hung")]}, ["smoke: b: hung"]),
        ({"smoke": [("a", "ok")], "tests": [("t.py::b", "failed")]}, ["tests: t.py::b: failed"]),
        ({"smoke": [("a", "left out")]}, ["nothing was compared"]),
        ({}, ["nothing was compared"]),
    ],
)
def test_the_verdict_is_green_when_something_was_compared_and_nothing_failed(stages, expected):
    assert reasons(document(**stages)) == expected


def test_failed_tests_are_known_by_their_names():
    items = [("t.py::a", "passed"), ("t.py::b", "hung"), ("t.py 3", "not finished")]
    assert failed_tests(document(tests=items)) == ["t.py::b"]


NCU_OUTPUT = """
    Section: GPU Speed Of Light Throughput
    ----------------------- ----------- ------------
    Metric Name             Metric Unit Metric Value
    ----------------------- ----------- ------------
    DRAM Frequency                  Ghz         3.20
    DRAM Throughput                   %        91.25
    Duration                         us       134.08
    Elapsed Cycles                cycle      233,991
    ----------------------- ----------- ------------
"""


def program(path: Path, text: str) -> None:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o755)


def test_counters_of_ncu_are_read_and_all_of_it_is_kept(tmp_path, monkeypatch):
    program(tmp_path / "ncu", f"import sys\nprint(' '.join(sys.argv[1:]))\nprint({NCU_OUTPUT!r})")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = profile.profile(profile.SHAPES[0], "gpu_smoke", tmp_path / "ncu.txt")["metrics"]
    assert found == {
        "DRAM Frequency": "3.20 Ghz", "DRAM Throughput": "91.25 %", "Duration": "134.08 us",
        "Elapsed Cycles": "233,991 cycle",
    }  # fmt: skip
    text = (tmp_path / "ncu.txt").read_text()
    assert "--kernel-name regex:decode_kernel" in text
    assert f"gpu_smoke --child time {profile.SHAPES[0]}" in text


def test_an_ncu_that_reads_nothing_says_why(tmp_path, monkeypatch):
    program(tmp_path / "ncu", "print('==ERROR== ERR_NVGPUCTRPERM')")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="ERR_NVGPUCTRPERM"):
        profile.profile(profile.SHAPES[0], "gpu_smoke", tmp_path / "ncu.txt")


def test_narrowed_shapes_are_given_to_every_tool(tmp_path, monkeypatch, capsys):
    code = "import sys\nprint('ERROR SUMMARY: 1 error')\nsys.exit(9 if 'racecheck' in sys.argv else 0)"
    program(tmp_path / "compute-sanitizer", code)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "results.json"
    items = [{"end": "decode", "outcome": "ok", "minimal": "decode bf16 1/1 d64 p16 17:1"},
             {"end": "mma", "outcome": "ok", "minimal": ""}]  # fmt: skip
    path.write_text(json.dumps({"stages": {"narrowing": {"items": items}}}))
    monkeypatch.setattr(sys, "argv", ["sanitize", str(tmp_path / "items.jsonl"), "gpu_smoke", str(path)])
    assert sanitize.main() == 0
    errors = {name: item["errors"] for name, item in Progress(tmp_path / "items.jsonl").ended.items()}
    assert errors == {
        f"{tool}: decode bf16 1/1 d64 p16 17:1": tool == "racecheck"
        for tool in ("memcheck", "racecheck", "synccheck", "initcheck")
    }
