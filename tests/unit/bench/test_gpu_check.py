"""The GPU check on a CPU, with tiny sizes: the stages of both calls run and leave their results."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from bench.gpu.goals import Goal
from bench.gpu.report import add_stage, stage_lines, table
from bench.gpu.shapes import SHAPES, weight_bytes, write_shape
from bench.gpu.small_kernels import faults_of
from bench.gpu.words import kernel_lines, slo_lines
from fastserve.models.registry import read_spec

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "bench" / "gpu_check.sh"


def run(*arguments: object, total_s: int = 250, **environment: str) -> subprocess.CompletedProcess:
    inherited = {name: value for name, value in os.environ.items() if name != "OUT"}
    return subprocess.run(
        ["bash", SCRIPT, *map(str, arguments)],
        env=inherited | {"PYTHON": sys.executable, "TOTAL_S": str(total_s)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


CALL1 = ["smoke", "build", "attention", "tests", "batches", "ncu", "offload"]
GREEN = ["build", "kernels", "opt", "race", "variants", "sanitizer"]
RED = ["smoke", "build", "narrowing", "sanitizer", "again", "kernels"]
NO_GPU = {"smoke", "ncu", "narrowing"}  # left out where no gpu_smoke is built, or no ncu


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())["stages"]


def write_results(path: Path, **stages: list[tuple[str, str]]) -> Path:
    """A results.json with these items: name and outcome."""
    rows = {
        stage: {"result": "ok", "seconds": 1.0, "items": [{"end": name, "outcome": outcome} for name, outcome in items]}
        for stage, items in stages.items()
    }
    path.write_text(json.dumps({"stages": rows}))
    return path


@pytest.mark.slow
def test_the_first_call_runs_on_a_cpu(tmp_path):
    done = run("call1", "--device", "cpu", "--out", tmp_path, GPU_SMOKE="/nowhere")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = results(tmp_path)
    assert list(stages) == CALL1
    for name, stage in stages.items():
        assert stage["result"] == ("left out" if name in NO_GPU else "ok"), name
    assert {item["outcome"] for item in stages["tests"]["items"]} <= {"passed", "skipped"}
    report = (tmp_path / "report.txt").read_text()
    assert report in done.stdout
    for words in ("x large copy", "tokens/s", "rms_norm", "goals of attention"):
        assert words in report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "report.txt", "results.json"]


@pytest.mark.slow
def test_the_second_call_after_a_green_one_runs_on_a_cpu(tmp_path):
    after = write_results(tmp_path / "first.json", smoke=[("decode", "ok")], tests=[("tests/a.py::test_b", "passed")])
    out = tmp_path / "out"
    done = run("call2", "--device", "cpu", "--after", after, "--out", out)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = results(out)
    assert [(name, stage["result"]) for name, stage in stages.items()] == [(name, "ok") for name in GREEN]
    assert {item["policy"] for item in stages["opt"]["items"] if "policy" in item} == {"skip-join-mlfq", "fcfs"}
    assert "rate at 100 ms per token" in (out / "report.txt").read_text()


@pytest.mark.slow
def test_the_second_call_after_a_red_one_looks_for_the_cause(tmp_path):
    test = "tests/unit/ops/test_read_bandwidth.py::test_that_has_failed"
    shape = "decode bf16 8/2 d128 p16 300:1,17:1"
    after = write_results(tmp_path / "first.json", smoke=[(shape, "differs")], tests=[(test, "failed")])
    program = tmp_path / "gpu_smoke"  # fails whatever has more than 16 tokens in a row
    program.write_text("#!/bin/bash\n[[ ${!#} =~ (1[7-9]|[2-9][0-9]|[0-9]{3,}): ]] && exit 1\nexit 0\n")
    program.chmod(0o755)
    out = tmp_path / "out"
    done = run("call2", "--device", "cpu", "--after", after, "--out", out, GPU_SMOKE=str(program))
    assert f"red\nsmoke: {shape}: differs\ntests: {test}: failed" in done.stdout
    stages = results(out)
    assert list(stages) == RED
    (item,) = stages["narrowing"]["items"]
    assert item["minimal"] == "decode bf16 1/1 d64 p16 17:1 ordered"
    assert item["needed"] == ["tokens beyond 1", "tokens beyond 16"]
    assert "fails without: all rows but 0, all KV heads but one" in (out / "report.txt").read_text()


def test_the_folder_of_the_caller_is_used(tmp_path):
    done = run("--device", "cpu", "--stage", "build", OUT=str(tmp_path / "mine"))
    assert done.returncode == 0, done.stderr
    assert results(tmp_path / "mine")["build"]["result"] == "ok"
    done = run("--device", "cpu", "--stage", "build", "--out", tmp_path / "other", OUT=str(tmp_path / "not"))
    assert done.returncode == 0
    assert (tmp_path / "other").is_dir() and not (tmp_path / "not").exists()


def test_items_of_a_stage_that_is_cut_off_are_kept(tmp_path):
    with subprocess.Popen(
        ["bash", SCRIPT, "--device", "cpu", "--stage", "batches", "--out", tmp_path],
        env=os.environ | {"PYTHON": sys.executable}, stdout=subprocess.DEVNULL, start_new_session=True,
    ) as process:  # fmt: skip
        items = tmp_path / "batches.jsonl"
        while not (items.is_file() and '"end": "start"' in items.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu.report", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert results(tmp_path)["batches"]["items"][0]["end"] == "start"
    assert "batches   cut off" in done.stdout


def test_stages_for_which_no_time_is_left_say_so(tmp_path):
    done = run("--device", "cpu", "--out", tmp_path, "--stage", "batches", total_s=1)
    assert done.returncode == 1
    assert results(tmp_path)["batches"]["result"] == "no time left"


@pytest.mark.slow
def test_a_stage_that_hangs_costs_itself_alone(tmp_path):
    """Also when what hangs keeps its output open."""
    program = tmp_path / "gpu_smoke"
    program.write_text("#!/bin/bash\necho begun\nsetsid sleep 30 &\nsleep 30\n")
    program.chmod(0o755)
    out = tmp_path / "out"
    stages = ("--stage", "smoke", "--stage", "build")
    done = run("--device", "cpu", "--out", out, *stages, total_s=6, GPU_SMOKE=str(program))
    assert [stage["result"] for stage in results(out).values()] == ["out of time", "no time left"]
    assert "begun" in done.stdout


GPU_ROW = {
    "kernel": "prefill attn", "shape": "B=8", "bytes_moved": 0, "flops": 4e12, "read_roof_bytes_per_s": 4e12,
    "copy_roof_bytes_per_s": 4e12, "matmul_roof_flops_per_s": 8e14, "median_s": {"fastserve": 0.01, "torch": 0.012},
}  # fmt: skip


def test_the_table_has_rate_share_of_the_roof_and_ratio_of_a_kernel():
    header, compute, memory = kernel_lines(
        [GPU_ROW, GPU_ROW | {"kernel": "decode attn", "flops": 0, "bytes_moved": 2e10}]
    )
    assert "of roof" in header
    assert compute.split()[-5:] == ["400", "TFLOP/s", "50%", "torch", "1.20x"]
    assert memory.split()[-5:] == ["2000", "GB/s", "50%", "torch", "1.20x"]


def test_a_goal_says_whether_it_is_reached_missed_or_unknown():
    goal = Goal("decode", lambda rows: rows["decode"]["share"], 0.9)
    assert goal.line({"decode": {"share": 0.95}}).split() == ["ok", "decode", "95.0%", "goal", ">=", "90.0%"]
    assert goal.line({"decode": {"share": 0.85}}).startswith("BELOW")
    assert "not measured" in goal.line({})
    limit = Goal("swap-in", lambda rows: 12.0, 11, "ms", at_most=True)
    assert limit.line({}).split() == ["BELOW", "swap-in", "12", "ms", "goal", "<=", "11", "ms"]


def test_stages_run_later_are_added_and_a_cut_item_is_named(tmp_path):
    (tmp_path / "race.jsonl").write_text('{"end": "a", "outcome": "passed"}\n{"begin": "b"}\n')
    add_stage(tmp_path, "race", "out of time", 3.0)
    document = add_stage(tmp_path, "offload", "ok", 1.0)
    assert not (tmp_path / "race.jsonl").exists()
    assert list(results(tmp_path)) == ["race", "offload"]
    text = "\n".join(table(document))
    assert "cut off: b" in text
    assert "goals of race" in text


def test_rates_at_the_limit_lie_between_those_measured():
    rows = [
        {"batch": 16, "policy": policy, "rate": rate, "token_latency_mean_s": latency_s}
        for policy, latencies in (("fcfs", (0.05, 0.15)), ("learned", (0.01, 0.02)))
        for rate, latency_s in zip((10.0, 20.0), latencies, strict=True)
    ]
    assert list(slo_lines(rows)) == ["batch 16: rate at 100 ms per token: fcfs 15.0/s, learned > 20.0/s"]


def test_a_kernel_whose_result_differs_is_reported():
    def wrong(device, dtype):
        wrong.calls = getattr(wrong, "calls", 0) + 1
        return [torch.full((2,), wrong.calls)]

    assert faults_of(wrong, "cpu", torch.float32) == ["wrong torch.float32: result 0 differs from the CPU's"]


@pytest.mark.slow
def test_a_stage_that_fails_does_not_hide_the_others(tmp_path):
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    (tmp_path / "timeout").write_text('#!/bin/bash\n[[ $* == *stage_race* ]] && exit 3\nexec /usr/bin/timeout "$@"\n')
    (tmp_path / "timeout").chmod(0o755)
    out = tmp_path / "out"
    done = run("--device", "cpu", "--out", out, "--stage", "race", "--stage", "offload", **environment)
    assert done.returncode == 1
    assert [stage["result"] for stage in results(out).values()] == ["failed (3)", "ok"]


NOT_IN_A_GPU_IMAGE = (
    "fastapi",
    "starlette",
    "uvicorn",
    "zmq",
    "msgspec",
    "openai",
    "httpx",
    "prometheus_client",
    "pydantic",
)
IMPORTS = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {NOT_IN_A_GPU_IMAGE}:
            raise ImportError(name)
sys.meta_path.insert(0, Missing())
import bench.gpu.report, bench.gpu.serving, bench.gpu.small_kernels, bench.kernels.__main__, bench.offload.__main__
import tests.faulty_gpu, tests.integration.test_device_runner
"""


def test_nothing_of_it_needs_the_packages_of_the_server():
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [("--stage", "fly"), ("call1", "--device", "tpu"), ("--what",), (), ("call2",), ("call3",)]
)
def test_an_unknown_word_is_refused_with_the_usage(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: bench/gpu_check.sh" in done.stderr


def test_a_second_call_after_no_results_is_refused(tmp_path):
    (tmp_path / "no.json").write_text("{")
    done = run("call2", "--device", "cpu", "--after", tmp_path / "no.json", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "no.json is not the results.json of a first call" in done.stderr


def test_the_report_tells_all_that_the_smoke_test_knows_of_a_fault():
    items = [
        {"end": "device", "outcome": "ok", "name": "NVIDIA H200", "seconds": 0.5},
        {"end": "decode bf16 2/2 d64 p16 17:1", "outcome": "differs", "fault": "wrong values", "row": 3, "got_bits": "0x7fc0"},
        {"end": "time decode bf16 32/8 d128 p16 4096:1*32", "outcome": "ok", "us": 131.0, "gb_per_s": 4100.0},
    ]  # fmt: skip
    lines = list(stage_lines("smoke", items))
    assert lines[0] == "1 differs, 2 ok"
    assert lines[2] == "device: name NVIDIA H200"
    assert lines[1] == "differs: decode bf16 2/2 d64 p16 17:1: fault wrong values, row 3, got_bits 0x7fc0"
    assert lines[3].endswith("131.0 us  4100 GB/s")


@pytest.mark.parametrize(("name", "billions"), [("llama-3-8b", 8.0), ("opt-13b", 12.9), ("tiny", 0.0)])
def test_the_shapes_are_those_of_their_names(tmp_path, name, billions):
    spec = read_spec(write_shape(tmp_path, name))
    config = SHAPES[name]
    hidden, inner = config["hidden_size"], config.get("intermediate_size", config.get("ffn_dim"))
    heads = spec.num_heads + 2 * spec.num_kv_heads
    matrices = 3 if name != "opt-13b" else 2
    layer = hidden * (heads * spec.head_dim + hidden + matrices * inner)
    ends = spec.vocab_size * hidden * (2 if name != "opt-13b" else 1)
    assert (spec.num_layers * layer + ends) / 1e9 == pytest.approx(billions, abs=0.1)
    assert read_spec(write_shape(tmp_path, name, num_layers=1)).num_layers == 1
    embedding = (
        spec.vocab_size * hidden if name != "opt-13b" else 0
    )  # a step reads rows of it, where it is not the head
    count = spec.num_layers * layer + ends - embedding
    assert weight_bytes(name, spec.num_layers) == count * (2 if name != "tiny" else 4)
