"""The GPU check on a CPU, with tiny sizes: every stage but the build runs and leaves its results."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu.report import kernel_lines
from bench.gpu.shapes import SHAPES, write_shape
from bench.gpu.small_kernels import faults_of
from fastserve.models.registry import read_spec

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "bench" / "gpu_check.sh"


def run(*arguments: object, total_s: int = 250) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["bash", SCRIPT, *map(str, arguments)],
        env=os.environ | {"PYTHON": sys.executable, "TOTAL_S": str(total_s)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def test_every_stage_runs_on_a_cpu(tmp_path):
    stages = ("build", "tests", "kernels", "offload", "llama", "opt", "sanitizer")
    done = run("--device", "cpu", "--out", tmp_path, *(word for stage in stages for word in ("--stage", stage)))
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [(stage["stage"], stage["result"]) for stage in summary["stages"]] == [(name, "ok") for name in stages]
    policies = [row["policy"] for row in json.loads((tmp_path / "opt.json").read_text())["results"]]
    assert policies == ["skip-join-mlfq", "fcfs"]
    assert "x large copy" in done.stdout
    assert "tokens/s" in done.stdout
    assert "rms_norm" in done.stdout.split("of roof")[1]


def test_stages_for_which_no_time_is_left_say_so(tmp_path):
    done = run("--device", "cpu", "--out", tmp_path, "--stage", "llama", total_s=1)
    assert done.returncode == 1
    assert json.loads((tmp_path / "summary.json").read_text())["stages"][0]["result"] == "no time left"


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


def test_a_kernel_whose_result_differs_is_told():
    def wrong(device, dtype):
        wrong.calls = getattr(wrong, "calls", 0) + 1
        return [torch.full((2,), wrong.calls)]

    assert faults_of(wrong, "cpu", torch.float32) == ["wrong torch.float32: result 0 differs from the CPU's"]


def test_a_stage_that_fails_does_not_hide_the_others(tmp_path):
    (tmp_path / "opt.json").mkdir()  # the stage cannot write its results
    done = run("--device", "cpu", "--out", tmp_path, "--stage", "opt", "--stage", "offload")
    assert done.returncode == 1
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [stage["result"] for stage in summary["stages"]] == ["failed (1)", "ok"]


NOT_IN_A_GPU_IMAGE = ("fastapi", "starlette", "uvicorn", "zmq", "msgspec", "openai", "httpx", "prometheus_client")
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
