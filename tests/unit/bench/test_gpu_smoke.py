"""gpu_smoke on a simulated GPU: its kernels run as compiled PTX (tests/gpu_simulator), and a spoiled one is found and reported.

GPU_SMOKE names the program; without it nothing here runs: `make test-gpu-sim`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.gpu.progress import Progress

PROGRAM = os.environ.get("GPU_SMOKE", "")
pytestmark = pytest.mark.skipif(not PROGRAM, reason="GPU_SMOKE names no gpu_smoke of the GPU simulator")

KERNELS = ("naive ", "decode ", "mma ", "hopper ")
DEVICE_ITEMS = ["device", "tensor maps", "mapped write", "batched copy", "occupancy"]
RIGHT = [
    "naive fp32 4/2 d64 p16 1:1,17:3",
    "naive bf16 2/1 d128 p32 0:1,33:2 fused",
    "naive fp16 2/1 d80 p8 19:19",
    "decode bf16 2/2 d64 p16 1:1,17:1",
    "decode fp16 8/2 d128 p32 0:1,129:1 fused",
    "mma bf16 2/2 d64 p16 17:3,1:1",
    "hopper bf16 2/2 d64 p16 17:3,1:1",
    "hopper bf16 6/2 d80 p16 33:5 ordered",
]


def run(
    *items: str, program: Path | str = PROGRAM, capability: str = "9.0", options: tuple[str, ...] = ()
) -> tuple[int, list[dict]]:
    """Exit status, and the lines of the items that ended."""
    done = subprocess.run(
        [program, *options, *items],
        env=os.environ | {"GPU_SIMULATOR_CAPABILITY": capability},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[-1] == {"done": True}
    ended = [line for line in lines if "end" in line]
    assert [line["end"] for line in ended] == list(items)
    return done.returncode, ended


def test_every_item_is_ok_on_a_simulated_hopper(tmp_path):
    path = tmp_path / "items.jsonl"
    code, ended = run(*DEVICE_ITEMS, *RIGHT, options=("--out", str(path)))
    assert {item["end"]: item["outcome"] for item in ended} == dict.fromkeys([*DEVICE_ITEMS, *RIGHT], "ok")
    assert code == 0
    assert [json.loads(line) for line in path.read_text().splitlines() if '"end"' in line] == ended
    facts = {item["end"]: item for item in ended}
    assert facts["device"]["compute_capability"] == "9.0"
    assert 0 < facts[RIGHT[3]]["most_error"] < facts[RIGHT[3]]["allowed"]


def test_a_grid_that_does_not_run_at_once_is_seen():
    """The simulated GPU runs four thread blocks at a time, whatever it says of its processors."""
    code, (item,) = run("carve-out")
    assert (item["outcome"], item["by_default"], item["when_asked_for"], item["expected"]) == ("differs", 4, 4, 6)
    assert code == 1


def is_small(name: str) -> bool:
    """Whether the simulated GPU has the shape done in seconds, and this machine the memory."""
    large_groups = name.startswith(("mma", "hopper")) and (" 28/4 " in name or " 40/2 " in name)
    return not large_groups and "far" not in name and "9000" not in name


def test_the_shapes_of_the_list_are_right_on_a_simulated_hopper():
    names = [name for name in listed() if name.startswith(KERNELS) and is_small(name)]
    code, ended = run(*names, options=("--stall-s", "120"))
    assert {item["end"]: item["outcome"] for item in ended} == dict.fromkeys(names, "ok")
    assert code == 0


def test_a_graph_gives_the_bits_of_single_launches():
    assert run("graph")[0] == 0


def test_what_an_older_gpu_does_not_have_is_left_out():
    code, ended = run("tensor maps", RIGHT[3], RIGHT[5], RIGHT[6], capability="8.0")
    assert [item["outcome"] for item in ended] == ["left out", "ok", "ok", "left out"]
    assert code == 0


def spoiled(tmp_path: Path, kernel: str, right: bytes, wrong: bytes, head_dim: int = 64) -> Path:
    """A copy of the program in whose kernels of that name and head size one PTX instruction is another."""
    assert len(right) == len(wrong)
    image = Path(PROGRAM).read_bytes()
    changed = 0
    begin = 0
    while (begin := image.find(b".entry ", begin + 1)) >= 0:
        name = image[begin : image.index(b"(", begin)]
        end = min(at for at in (image.find(b".entry ", begin + 1), image.find(b"\0", begin)) if at > 0)
        if kernel in name.decode() and f"Li{head_dim}E" in name.decode() and right in image[begin:end]:
            body = image[begin:end].replace(right, wrong)
            image = image[:begin] + body + image[end:]
            changed += 1
    assert changed
    path = tmp_path / "gpu_smoke"
    path.write_bytes(image)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("kernel", "item"), [("decode_kernel", RIGHT[3]), ("prefill_kernel", RIGHT[5]), ("hopper_kernel", RIGHT[6])]
)
def test_a_spoiled_kernel_differs_and_its_first_value_is_reported(tmp_path, kernel, item):
    program = spoiled(tmp_path, kernel, b"ex2.approx.ftz.f32", b"rcp.approx.ftz.f32")
    code, (wrong, right) = run(item, RIGHT[0], program=program)
    assert code == 1
    assert right["outcome"] == "ok"
    assert wrong["outcome"] == "differs"
    assert wrong["fault"] == "wrong values"
    assert {
        "row",
        "query",
        "head",
        "kv_head",
        "element",
        "visible",
        "last_page",
        "last_tile",
        "query_tile",
    } <= wrong.keys()
    assert wrong["got_bits"] != wrong["expected_bits"]
    assert wrong["heads_wrong"] == "0-1"


def test_narrowing_finds_what_a_spoiled_kernel_needs_to_fail(tmp_path):
    program = spoiled(tmp_path, "decode_kernel", b"ex2.approx.ftz.f32", b"rcp.approx.ftz.f32", head_dim=128)
    items = [{"end": "decode fp16 8/2 d128 p32 300:1,1:1,0:1 fused", "outcome": "differs"}]
    results, found = tmp_path / "results.json", tmp_path / "narrowing.jsonl"
    results.write_text(json.dumps({"stages": {"smoke": {"items": items}}}))
    command = [sys.executable, "-m", "bench.gpu.narrowing", str(found), str(program), str(results)]
    subprocess.run(command, check=True, timeout=280)
    (item,) = Progress(found).ended.values()
    assert item["minimal"] == "decode bf16 1/1 d128 p16 1:1 ordered"
    assert item["needed"] == ["another head size than 64"]


def test_a_kernel_that_loses_the_gpu_costs_its_item_alone(tmp_path):
    program = spoiled(tmp_path, "decode_kernel", b"ld.global.s32", b"ld.shared.s32")
    code, ended = run("mapped write", RIGHT[3], RIGHT[0], "batched copy", program=program)
    assert [item["outcome"] for item in ended] == ["ok", "failed", "ok", "ok"]
    assert ended[1]["error"]
    assert code == 1


def test_an_item_that_hangs_is_ended_and_the_others_go_on():
    code, ended = run("naive fp32 8/8 d256 p16 4000:4000", "mapped write", options=("--stall-s", "4"))
    assert [item["outcome"] for item in ended] == ["hung", "ok"]
    assert code == 1


def test_a_shape_that_cannot_be_read_says_why():
    code, (item,) = run("decode bf8 2/2 d64 p16 1:1")
    assert item["outcome"] == "failed"
    assert item["error"] == "the dtype must be bf16, fp16 or fp32, got 'bf8'"
    assert code == 1


def listed() -> list[str]:
    return subprocess.run([PROGRAM, "--list"], capture_output=True, text=True, check=True).stdout.splitlines()


def test_each_kernel_has_twelve_shapes():
    for kernel in ("decode ", "mma ", "hopper "):
        assert len([name for name in listed() if name.startswith(kernel)]) == 12
    assert listed()[: len(DEVICE_ITEMS)] == DEVICE_ITEMS
