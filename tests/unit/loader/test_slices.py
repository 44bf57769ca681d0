"""Slices of tensors: what a rank reads of a checkpoint that several ranks share."""

import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.loader import checkpoint
from fastserve.loader.checkpoint import READABLE, CheckpointWeights
from fastserve.loader.kind import SINGLE

ROWS, COLUMNS = 7, 12
SLICES = [
    (range(2, 5), None),
    (range(0, ROWS), None),
    (range(3, 3), None),
    (None, range(4, 8)),
    (None, range(11, 12)),
    (range(6, 7), range(0, 5)),
]


def write(folder: Path, **tensors: torch.Tensor) -> None:
    safetensors.torch.save_file(tensors, folder / SINGLE)


def values(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def plain(whole: torch.Tensor, rows: range | None, columns: range | None) -> torch.Tensor:
    part = whole if rows is None else whole[rows.start : rows.stop]
    return part if columns is None else part[:, columns.start : columns.stop]


@pytest.mark.parametrize("stage_bytes", [8, 200, 1 << 20], ids=["less than a row", "some rows", "all rows"])
@pytest.mark.parametrize("out_dtype", READABLE)
@pytest.mark.parametrize("stored", READABLE)
def test_a_slice_read_equals_the_slice_of_the_whole(
    tmp_path: Path, stored: torch.dtype, out_dtype: torch.dtype, stage_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "STAGE_BYTES", stage_bytes)
    before, whole = values(3), values(ROWS, COLUMNS, dtype=stored)
    write(tmp_path, before=before, whole=whole, vector=whole[:, 0].contiguous())
    with CheckpointWeights(tmp_path) as weights:
        for rows, columns in SLICES:
            expected = plain(whole, rows, columns).to(out_dtype)
            out = torch.full_like(expected, 9.0)
            weights.read_into("whole", out, rows=rows, columns=columns)
            assert torch.equal(out, expected)
        out = torch.empty(3, dtype=out_dtype)
        weights.read_into("vector", out, rows=range(4, 7))
        assert torch.equal(out, whole[4:, 0].to(out_dtype))


def test_a_slice_fills_a_part_of_a_larger_tensor(tmp_path: Path) -> None:
    whole, fused = values(ROWS, COLUMNS), torch.zeros(5, 4)
    write(tmp_path, whole=whole)
    with CheckpointWeights(tmp_path) as weights:
        weights.read_into("whole", fused[1:4], rows=range(2, 5), columns=range(8, 12))
    assert torch.equal(fused[1:4], whole[2:5, 8:12])
    assert not fused[0].any()
    assert not fused[4].any()


@pytest.mark.parametrize(
    ("rows", "columns", "named"),
    [
        (range(5, 8), None, "no rows 5 to 8"),
        (range(-1, 2), None, "no rows -1 to 2"),
        (range(0, 4, 2), None, "no rows 0 to 4"),
        (None, range(10, 13), "no columns 10 to 13"),
    ],
)
def test_a_slice_that_is_not_there_is_refused(
    tmp_path: Path, rows: range | None, columns: range | None, named: str
) -> None:
    write(tmp_path, whole=values(ROWS, COLUMNS))
    with CheckpointWeights(tmp_path) as weights, pytest.raises(CheckpointError, match=named):
        weights.read_into("whole", torch.empty(3, 3), rows=rows, columns=columns)


def test_a_slice_is_asked_for_in_its_own_shape_and_from_a_tensor_that_has_it(tmp_path: Path) -> None:
    write(tmp_path, whole=values(ROWS, COLUMNS), vector=values(4), counts=torch.zeros(4, 4, dtype=torch.int8))
    with CheckpointWeights(tmp_path) as weights:
        with pytest.raises(InvalidArgumentError, match=r"has the shape \(3, 12\), that to fill has \(2, 12\)"):
            weights.read_into("whole", torch.empty(2, 12), rows=range(1, 4))
        with pytest.raises(CheckpointError, match="no columns 0 to 2"):
            weights.read_into("vector", torch.empty(2), columns=range(0, 2))
        with pytest.raises(CheckpointError, match="lacks the tensor other"):
            weights.read_into("other", torch.empty(2, 12), rows=range(0, 2))
        with pytest.raises(CheckpointError, match="quantised"):
            weights.read_into("counts", torch.empty(2, 4), rows=range(0, 2))


def test_a_slice_beyond_float16_is_refused(tmp_path: Path) -> None:
    whole = torch.tensor([[1.0, 1e6], [2.0, 3.0]])
    write(tmp_path, whole=whole)
    with CheckpointWeights(tmp_path) as weights:
        out = torch.empty(2, 1, dtype=torch.float16)
        weights.read_into("whole", out, columns=range(0, 1))
        assert out.tolist() == [[1.0], [2.0]]
        with pytest.raises(CheckpointError, match="float16 cannot"):
            weights.read_into("whole", out, columns=range(1, 2))


def test_tensors_of_other_ranks_are_not_left_over(tmp_path: Path) -> None:
    write(tmp_path, mine=values(4, 4), theirs=values(4, 4), extra=values(1))
    calls: list[tuple[str, int, int]] = []
    with CheckpointWeights(tmp_path, progress=lambda *call: calls.append(call)) as weights:
        for half in (range(0, 2), range(2, 4)):
            weights.read_into("mine", torch.empty(2, 4), rows=half)
        weights.leave("theirs")
        with pytest.raises(CheckpointError, match="no place for: extra;"):
            weights.check_all_read()
        weights.leave("extra")
        weights.check_all_read()
    assert [(name, done) for name, done, _ in calls] == [("mine", 64), ("theirs", 128), ("extra", 132)]
    assert calls[-1][1] == calls[-1][2]


MIB = 1 << 20
# Prints by how much the most memory that the process ever had grew while it read a quarter of each tensor, MiB.
READ_A_QUARTER = """
import sys
from pathlib import Path
import torch
from fastserve.loader.checkpoint import CheckpointWeights

def most_kib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))

Path("/proc/self/clear_refs").write_text("5")
before = most_kib("VmHWM:")
with CheckpointWeights(Path(sys.argv[1])) as weights:
    rows = torch.empty(2048, 8192, dtype=torch.bfloat16)
    weights.read_into("rows", rows, rows=range(2048, 4096))
    columns = torch.empty(8192, 2048, dtype=torch.bfloat16)
    weights.read_into("columns", columns, columns=range(2048, 4096))
print((most_kib("VmHWM:") - before) / 1024, (rows.nbytes + columns.nbytes) / 2**20)
"""


def test_a_rank_never_holds_a_whole_tensor(tmp_path: Path) -> None:
    tensors = {name: torch.zeros(8192, 8192, dtype=torch.bfloat16) for name in ("rows", "columns")}
    write(tmp_path, **tensors)
    process = subprocess.run(
        [sys.executable, "-c", READ_A_QUARTER, str(tmp_path)], check=True, capture_output=True, text=True
    )
    grown, held = map(float, process.stdout.split())
    assert tensors["rows"].nbytes / MIB == 128  # what is looked for would show
    assert held <= grown + 1 and grown <= held + 64
