"""The GPU check on a CPU, with tiny sizes: every stage but the build runs and leaves its results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu.goals import Goal
from bench.gpu.report import add_stage, table
from bench.gpu.shapes import SHAPES, weight_bytes, write_shape
from bench.gpu.small_kernels import faults_of
from bench.gpu.words import kernel_lines, slo_lines
from fastserve.models.registry import read_spec

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "bench" / "gpu_check.sh"


def run(*arguments: object, total_s: int = 250, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", SCRIPT, *map(str, arguments)],
        env=os.environ | {"PYTHON": sys.executable, "TOTAL_S": str(total_s)} | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


STAGES = ("build", "tests", "kernels", "offload", "llama", "opt", "race", "sanitizer")


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())["stages"]


def test_every_stage_runs_on_a_cpu(tmp_path):
    done = run("--device", "cpu", "--out", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    stages = results(tmp_path)
    assert [(name, stage["result"]) for name, stage in stages.items()] == [(name, "ok") for name in STAGES]
    policies = {item["policy"] for item in stages["opt"]["items"] if "policy" in item}
    assert policies == {"skip-join-mlfq", "fcfs"}
    assert {item["outcome"] for item in stages["tests"]["items"]} <= {"passed", "skipped"}
    report = (tmp_path / "report.txt").read_text()
    assert report in done.stdout
    for words in ("x large copy", "tokens/s", "rms_norm", "goals of kernels", "rate at 100 ms per token"):
        assert words in report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "report.txt", "results.json"]


def test_stages_for_which_no_time_is_left_say_so(tmp_path):
    done = run("--device", "cpu", "--out", tmp_path, "--stage", "llama", total_s=1)
    assert done.returncode == 1
    assert results(tmp_path)["llama"]["result"] == "no time left"


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
    items = tmp_path / "items.jsonl"
    items.write_text('{"end": "a", "outcome": "passed"}\n{"begin": "b"}\n')
    add_stage(tmp_path, "race", "out of time", 3.0, items)
    document = add_stage(tmp_path, "offload", "ok", 1.0, tmp_path / "none.jsonl")
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


def test_a_kernel_whose_result_differs_is_told():
    def wrong(device, dtype):
        wrong.calls = getattr(wrong, "calls", 0) + 1
        return [torch.full((2,), wrong.calls)]

    assert faults_of(wrong, "cpu", torch.float32) == ["wrong torch.float32: result 0 differs from the CPU's"]


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


@pytest.mark.parametrize("arguments", [("--stage", "fly"), ("--device", "tpu"), ("--what",)])
def test_an_unknown_word_is_refused_with_the_usage(arguments):
    done = run(*arguments)
    assert done.returncode == 2
    assert "usage: bench/gpu_check.sh" in done.stderr


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
