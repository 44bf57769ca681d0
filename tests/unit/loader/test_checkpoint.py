"""Reading the weights of a folder, and every way a folder can be wrong."""

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fastserve.errors import CheckpointError
from fastserve.loader import checkpoint
from fastserve.loader.checkpoint import CheckpointWeights
from fastserve.loader.kind import INDEX, SINGLE

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).view(3, 4) / 7,
    "b": torch.linspace(-1, 1, 5).to(torch.bfloat16),
    "c": torch.ones(2, 2, dtype=torch.float16),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    safetensors.torch.save_file(TENSORS, tmp_path / SINGLE)
    return tmp_path


def write_sharded(folder: Path, files: dict[str, str]) -> None:
    """Files, each with the tensors whose names are the letters of a string, and their index."""
    for file, names in files.items():
        safetensors.torch.save_file({name: TENSORS[name] for name in names}, folder / file)
    weight_map = {name: file for file, names in files.items() for name in names}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def read_all(folder: Path, names: str = "abc") -> dict[str, torch.Tensor]:
    tensors = {}
    with CheckpointWeights(folder) as weights:
        for name in names:
            tensors[name] = torch.empty_like(TENSORS[name])
            weights.read_into(name, tensors[name])
        weights.check_all_read()
    return tensors


def refusal(folder: Path, names: str = "abc") -> str:
    with pytest.raises(CheckpointError) as caught:
        read_all(folder, names)
    return str(caught.value)


def test_tensors_come_back_as_written(folder: Path) -> None:
    for name, tensor in read_all(folder).items():
        assert torch.equal(tensor, TENSORS[name])


def test_tensors_are_found_in_whichever_shard_has_them(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"one.safetensors": "b", "two.safetensors": "ac"})
    for name, tensor in read_all(tmp_path).items():
        assert torch.equal(tensor, TENSORS[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_tensors_are_converted_piece_by_piece(
    folder: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "STAGE_BYTES", 16)
    with CheckpointWeights(folder) as weights:
        for name, tensor in TENSORS.items():
            out = torch.empty(tensor.shape, dtype=dtype)
            weights.read_into(name, out)
            assert torch.equal(out, tensor.to(dtype))


def test_a_tensor_is_read_into_a_part_of_a_larger_one(folder: Path) -> None:
    fused = torch.zeros(5, 4)
    with CheckpointWeights(folder) as weights:
        weights.read_into("a", fused[1:4])
    assert torch.equal(fused[1:4], TENSORS["a"])
    assert not fused[0].any()
    assert not fused[4].any()


def test_progress_ends_with_all_bytes(folder: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    with CheckpointWeights(folder, progress=lambda *call: calls.append(call)) as weights:
        for name, tensor in TENSORS.items():
            weights.read_into(name, torch.empty_like(tensor))
    assert calls == [("a", 48, 66), ("b", 58, 66), ("c", 66, 66)]


def test_a_missing_tensor_is_named_with_the_expected_shape(folder: Path) -> None:
    with CheckpointWeights(folder) as weights, pytest.raises(CheckpointError, match=r"lacks the tensor x \(2, 7\)"):
        weights.read_into("x", torch.empty(2, 7))


def test_a_mis_shaped_tensor_is_named_with_both_shapes(folder: Path) -> None:
    with CheckpointWeights(folder) as weights, pytest.raises(CheckpointError) as caught:
        weights.read_into("a", torch.empty(4, 3))
    for part in (str(folder / SINGLE), "a must have the shape (4, 3)", "found (3, 4)"):
        assert part in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float8_e4m3fn])
def test_quantised_tensors_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    safetensors.torch.save_file({"a": torch.zeros(3, 4).to(dtype)}, tmp_path / SINGLE)
    assert "quantised checkpoints are not supported" in refusal(tmp_path, "a")


def test_unexpected_tensors_are_refused(folder: Path) -> None:
    assert "no place for: c" in refusal(folder, "ab")


@pytest.mark.parametrize(
    ("ignored", "left"),
    [((), "one, two.bias"), (("o.e",), "two.bias"), (("one", "two", "bias"), "two.bias"), (("o.*", r".*\.bias"), "")],
)
def test_tensors_are_ignored_by_whole_name(tmp_path: Path, ignored: tuple[str, ...], left: str) -> None:
    safetensors.torch.save_file({name: torch.ones(1) for name in ("one", "two.bias")}, tmp_path / SINGLE)
    with CheckpointWeights(tmp_path, ignored=ignored) as weights:
        assert weights.has("one") == ("one" in left)
        if left:
            with pytest.raises(CheckpointError, match=f"no place for: {re.escape(left)};"):
                weights.check_all_read()
        else:
            weights.check_all_read()


def test_values_beyond_float16_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.full((3,), 1e5)}, tmp_path / SINGLE)
    with CheckpointWeights(tmp_path) as weights, pytest.raises(CheckpointError, match="--dtype bfloat16"):
        weights.read_into("a", torch.empty(3, dtype=torch.float16))


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / SINGLE
    path.write_bytes(path.read_bytes()[:-1])
    assert "truncated" in refusal(folder)


def test_a_file_cut_short_while_it_is_open_is_refused(folder: Path) -> None:
    with CheckpointWeights(folder) as weights:
        with (folder / SINGLE).open("r+b") as file:
            file.truncate(20)
        with pytest.raises(CheckpointError, match="became shorter"):
            weights.read_into("c", torch.empty_like(TENSORS["c"]))


def test_a_file_that_vanished_is_a_checkpoint_error(folder: Path) -> None:
    with CheckpointWeights(folder) as weights:
        (folder / SINGLE).unlink()
        with pytest.raises(CheckpointError, match="No such file"):
            weights.read_into("a", torch.empty_like(TENSORS["a"]))


def test_a_folder_without_weights_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    message = refusal(tmp_path)
    for part in (SINGLE, INDEX, "--load-format dummy"):
        assert part in message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth"])
def test_pickled_weights_are_refused_with_a_remedy(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"never read")
    message = refusal(tmp_path)
    assert name in message
    assert "save_pretrained" in message


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"one.safetensors": "a", "two.safetensors": "b"})
    (tmp_path / "two.safetensors").unlink()
    assert "lacks two.safetensors" in refusal(tmp_path)


def test_a_shard_without_a_tensor_of_the_index_is_named(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"one.safetensors": "ab"})
    safetensors.torch.save_file({"a": TENSORS["a"]}, tmp_path / "one.safetensors")
    assert "one.safetensors lacks b" in refusal(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    write_sharded(tmp_path, {"one.safetensors": "a", "two.safetensors": "b"})
    safetensors.torch.save_file({"a": TENSORS["a"], "b": TENSORS["b"]}, tmp_path / "two.safetensors")
    assert "a second time" in refusal(tmp_path)


@pytest.mark.parametrize("file", ["../one.safetensors", "/etc/passwd", "sub/one.safetensors", "one.bin", 3, ""])
def test_an_index_cannot_point_out_of_its_folder(tmp_path: Path, file: object) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": file}}))
    assert "must lie in a .safetensors file of this folder" in refusal(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}', "[" * 100_000],
    ids=["empty", "list", "object", "no tensors", "number", "deep"],
)
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / INDEX).write_text(text)
    assert INDEX in refusal(tmp_path)
