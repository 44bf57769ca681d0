"""What runs on a GPU alone, on a simulated one: events, graphs, roofs, items that fail, the copies beside decode."""

import json
import sys

import pytest
import torch

from bench.gpu import serving, small_kernels
from bench.gpu.goals import KERNELS
from bench.gpu.progress import Progress
from bench.gpu.words import kernel_lines
from bench.kernels import __main__ as kernel_bench
from bench.kernels import activation, attention_gpu, gpu, norm, rope, sampling
from bench.kernels.attention_gpu import Shape
from bench.kernels.case import FASTSERVE, Case
from bench.lib import gpu_timing
from bench.offload import __main__ as offload_bench
from bench.offload import link
from fastserve._C.offload import HostArena, OffloadEngine
from fastserve.errors import DeviceError, InvalidArgumentError
from tests.fake_device import FakeDevice, use_device
from tests.unit.bench.simulated_cuda import cuda  # noqa: F401 (a fixture)

pytestmark = pytest.mark.usefixtures("cuda")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(gpu_timing, "_FLUSH_BYTES", 100)
    monkeypatch.setattr(gpu, "_ROOF_BYTES", 4000)
    monkeypatch.setattr(gpu, "_MATMUL_SIZE", 16)


def test_contenders_take_turns_after_three_calls_each():
    turns = []
    contenders = {name: lambda name=name: turns.append(name) for name in "ab"}
    samples = gpu_timing.interleave_on_gpu(contenders, rounds=3)
    assert "".join(turns) == "aaabbb" + "ababab"
    assert {name: len(sample.seconds) for name, sample in samples.items()} == {"a": 3, "b": 3}


def test_a_call_within_a_graph_is_timed_by_replays():
    calls = []
    samples = gpu_timing.time_in_graph(lambda: calls.append(1), rounds=4)
    assert len(calls) == gpu_timing.CALLS_PER_GRAPH
    assert len(samples.seconds) == 4


def run_kernels(monkeypatch, tmp_path, cases):
    monkeypatch.setattr(norm, "gpu_cases", cases)
    path = tmp_path / "kernels.jsonl"
    words = ["bench.kernels", "--device", "cuda", "--only", "norm", "--rounds", "2", "--progress", str(path)]
    monkeypatch.setattr(sys, "argv", [*words, "--json", str(tmp_path / "kernels.json")])
    kernel_bench.main()
    return Progress(path).ended


def test_every_case_is_timed_and_kept(monkeypatch, tmp_path, capsys):
    def cases(*, quick):
        yield Case("rms_norm", "T=2", norm._rms_norm(2, torch.bfloat16, 64), bytes_moved=1000)
        yield Case("product", "T=2", norm._rms_norm(2, torch.bfloat16, 64), flops=1000)

    items = run_kernels(monkeypatch, tmp_path, cases)
    assert {"read", "copy", "matmul", "launch_s"} <= items["roofs"].keys()
    row = items["rms_norm T=2"]
    assert row["outcome"] == "ok"
    assert len(row["samples_s"][FASTSERVE]) == len(row["samples_s"]["torch"]) == 2
    assert row["in_graph_s"] >= 0
    assert items["product T=2"]["in_graph_s"] is None
    assert "Simulated GPU" in capsys.readouterr().out
    assert len(list(kernel_lines(item for item in items.values()))) == 3
    assert len(json.loads((tmp_path / "kernels.json").read_text())["results"]) == 2


def test_a_case_that_fails_costs_no_other_and_a_contender_not_even_its_case(monkeypatch, tmp_path):
    def fail():
        raise RuntimeError("no kernel for this")

    def cases(*, quick):
        yield Case("first", "T=1", {FASTSERVE: fail})
        yield Case("second", "T=1", {FASTSERVE: lambda: None, "torch": fail}, bytes_moved=1)
        raise ValueError("too large")

    items = run_kernels(monkeypatch, tmp_path, cases)
    assert items["first T=1"]["outcome"] == "failed"
    assert "no kernel for this" in items["first T=1"]["error"]
    assert items["second T=1"]["outcome"] == "ok"
    assert items["second T=1"]["errors"].keys() == {"torch"}
    assert items["cases of bench.kernels.norm"]["error"] == "ValueError: too large"


def test_every_goal_of_the_kernels_has_its_case(monkeypatch):
    nothing = {FASTSERVE: lambda: None, "in order": lambda: None, "block 32": lambda: None}
    for module, name in (
        (attention_gpu, "contenders"),
        (norm, "_rms_norm"),
        (norm, "_layer_norm"),
        (rope, "_case"),
        (activation, "_case"),
        (sampling, "_sample"),
        (sampling, "_logprobs"),
    ):
        monkeypatch.setattr(module, name, lambda *args, **kwargs: nothing)
    cases = [*attention_gpu.attention_gpu_cases(quick=False)]
    for module in (norm, rope, activation, sampling):
        cases += module.gpu_cases(quick=False)
    roofs = {"copy_roof_bytes_per_s": 1e12, "matmul_roof_flops_per_s": 1e14, "in_graph_s": 1e-6}
    rows = {
        f"{case.kernel} {case.shape}": {
            "median_s": dict.fromkeys(nothing, 1.0), "shape": case.shape, "bytes_moved": case.bytes_moved,
            "flops": case.flops, **roofs,
        } for case in cases
    }  # fmt: skip
    assert not [line for line in (goal.line(rows) for goal in KERNELS) if "not measured" in line]


@pytest.fixture
def link_on_the_cpu(monkeypatch):
    """Arenas that need not be page-locked, and engines without a stream."""
    monkeypatch.setattr(link, "HostArena", lambda count, size, pin: HostArena(count, size))
    monkeypatch.setattr(
        link, "OffloadEngine", lambda kv, arena, compute_stream=0, **options: OffloadEngine(kv, arena, **options)
    )
    monkeypatch.setitem(link.DECODE, "cuda", Shape((4, 2, 64), [64] * 4, 1))


def test_the_link_of_a_gpu_is_measured(monkeypatch, tmp_path, link_on_the_cpu):
    path = tmp_path / "offload.jsonl"
    words = ["bench.offload", "--device", "cuda", "--block-kib", "4", "64", "--arena-mib", "1", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", [*words, "--progress", str(path)])
    offload_bench.main()
    items = Progress(path).ended
    assert all(item["outcome"] == "ok" for item in items.values())
    assert items["64 KiB both ways"]["bytes"] == 1 << 20
    assert len(items["decode beside copies"]["beside_seconds"]) == 20


def test_blocks_of_a_pool_are_few_enough_to_be_copied_one_by_one():
    assert link.num_blocks(1 << 30, 2 << 20) == 512
    assert link.num_blocks(1 << 30, 4096) == link.MOST_BLOCKS
    assert link.num_blocks(1 << 20, 13 << 20) == 4


def test_both_ways_are_kept_busy_and_idle_at_the_end(link_on_the_cpu):
    pair = link.Link("cuda", 4096, 64)
    with pair.busy_both_ways() as refill:
        for _ in range(20):
            refill()
    assert not pair.batched.wait_any()
    pair.close()


@pytest.mark.parametrize("kernel", small_kernels.KERNELS[:-1], ids=lambda kernel: kernel.__name__)
def test_the_small_kernels_agree_with_the_cpu(monkeypatch, kernel):
    monkeypatch.setattr(small_kernels, "HostArena", lambda count, size, pin: HostArena(count, size))
    for dtype in small_kernels.DTYPES:
        assert small_kernels.faults_of(kernel, "cuda", dtype) == []


def serve(monkeypatch, tmp_path, *words):
    path = tmp_path / "serving.jsonl"
    common = "--shape tiny --prompt 20 --output 10 --max-model-len 128 --device-blocks 64 --host-kv-gib 0.01 --rate 100"
    monkeypatch.setattr(sys, "argv", ["bench.gpu.serving", *common.split(), *words, "--progress", str(path)])
    serving.main()
    return Progress(path).ended


def test_serving_on_a_gpu_goes_on_after_a_run_that_fails(monkeypatch, tmp_path):
    use_device(FakeDevice(), monkeypatch.setattr)
    monkeypatch.setitem(serving.READ_BYTES, "cuda", 4000)
    of_run = serving.row_of

    def fail_first(policy, *args):
        if policy == "fcfs":
            raise RuntimeError("request 1 ended with error")
        return of_run(policy, *args)

    monkeypatch.setattr(serving, "row_of", fail_first)
    words = "--device cuda --batches 4,8 --policies fcfs,skip-join-mlfq --loads 1 --window 0.05"
    items = serve(monkeypatch, tmp_path, *words.split())
    assert items["batch 4 load 1 fcfs"]["outcome"] == "failed"
    assert items["batch 4 load 1 skip-join-mlfq"]["requests"] == 5
    full = items["batch 8 full"]
    assert full["rows"] == 7  # as the KV pool holds
    assert full["step_s"] > 0 and full["of_bound"] > 0


def test_an_engine_that_cannot_have_its_host_memory_gets_less(monkeypatch, tmp_path, capsys):
    started, asked = serving.Engine, []

    def refuse_much(config):
        asked.append(config.cache.host_kv_gib)
        if len(asked) < 3:
            raise DeviceError("the host KV pool cannot be page-locked")
        return started(config)

    monkeypatch.setattr(serving, "Engine", refuse_much)
    items = serve(monkeypatch, tmp_path, "--device", "cpu", "--batches", "4", "--budget", "0", "--host-kv-gib", "16")
    assert asked == [16, 4, 1]
    assert items["batch 4 full"]["outcome"] == "ok"
    assert "with 16 GiB for parked KV: the host KV pool" in capsys.readouterr().out


def test_an_engine_that_does_not_start_is_an_item_that_failed(monkeypatch, tmp_path):
    def refuse(config):
        raise InvalidArgumentError("the weights do not fit")

    monkeypatch.setattr(serving, "Engine", refuse)
    with pytest.raises(InvalidArgumentError):
        serve(monkeypatch, tmp_path, "--device", "cpu")
    item = Progress(tmp_path / "serving.jsonl").ended["start"]
    assert item["error"] == "InvalidArgumentError: the weights do not fit"


def test_no_run_begins_when_the_time_is_up(monkeypatch, tmp_path, capsys):
    items = serve(monkeypatch, tmp_path, "--device", "cpu", "--batches", "4", "--budget", "0")
    assert "batch 4 full" in items
    assert not [name for name in items if "load" in name]
    assert "no time left" in capsys.readouterr().out
