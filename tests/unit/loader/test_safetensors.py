"""The header reader: what it accepts safetensors itself accepts as well, and nothing else gets past it."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastserve.errors import CheckpointError
from fastserve.loader.safetensors import DTYPES, MAX_HEADER_BYTES, MAX_TENSORS, TensorEntry, parse_header, read_header

HERE = Path("some.safetensors")


def file_bytes(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: str, shape: list[object], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def read(tmp_path: Path, content: bytes) -> dict[str, TensorEntry]:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    return read_header(path)


def test_a_written_file_is_read_in_the_order_of_its_bytes(tmp_path: Path) -> None:
    tensors = {
        "b": torch.arange(6, dtype=torch.float32).view(2, 3),
        "a": torch.ones(4, dtype=torch.bfloat16),
        "empty": torch.empty(0, 5),
        "scalar": torch.tensor(3.0, dtype=torch.float16),
    }
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    entries = read_header(path)
    assert entries.keys() == tensors.keys()
    begins = [found.begin for found in entries.values()]
    assert begins == sorted(begins)
    content = path.read_bytes()
    for name, tensor in tensors.items():
        found = entries[name]
        assert (found.shape, found.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert content[found.begin : found.end] == tensor.view(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("name", DTYPES)
def test_every_known_dtype_has_its_size(tmp_path: Path, name: str) -> None:
    size = DTYPES[name].itemsize
    found = read(tmp_path, file_bytes({"x": entry(name, [3], 0, 3 * size)}, bytes(3 * size)))["x"]
    assert found.dtype == DTYPES[name]


X = entry("F32", [2], 0, 8)
TWO = {"x": X, "y": entry("F32", [1], 8, 12)}
BROKEN = {
    "empty file": (b"", "at least 8 are needed"),
    "half a length": (b"\x00\x01", "at least 8 are needed"),
    "length beyond the cap": ((MAX_HEADER_BYTES + 1).to_bytes(8, "little"), "at most"),
    "length beyond the file": ((100).to_bytes(8, "little") + b"{}", "truncated"),
    "too many tensors": (file_bytes(b'{"":' * (MAX_TENSORS + 1)), "at most 50000 tensors"),
    "too many lists": (file_bytes(b'{"":[' + b"[]," * (2 * MAX_TENSORS)), "at most 50000 tensors"),
    "too many names": (file_bytes(b"{" + b'"":0,' * (4 * MAX_TENSORS + 1)), "at most 50000 tensors"),
    "a shape of half a million dimensions": (
        file_bytes({"x": entry("F32", [2**63 - 1] * 500_000, 0, 8)}, bytes(8)),
        "has 500000 dimensions, at most 8",
    ),
    "a shape of huge sizes": (file_bytes({"x": entry("F32", [2**63 - 1] * 8, 0, 8)}, bytes(8)), "takes"),
    "not JSON": (file_bytes(b"{'a': 1}"), "not JSON"),
    "not UTF-8": (file_bytes(b'{"\xff": 1}'), "not JSON"),
    "deep JSON": (file_bytes(b"[" * 50_000), "not JSON"),
    "huge number": (file_bytes(b'{"x": ' + b"9" * 10_000 + b"}"), "not JSON"),
    "a list": (file_bytes([]), "must be a JSON object"),
    "the same name twice": (file_bytes(b'{"x": {}, "x": {}}'), "twice"),
    "metadata of numbers": (file_bytes({"__metadata__": {"format": 1}}), "strings"),
    "a tensor that is a number": (file_bytes({"x": 1}), "exactly dtype, shape and data_offsets"),
    "a field too many": (file_bytes({"x": X | {"more": 1}}, bytes(8)), "exactly dtype"),
    "an unknown dtype": (file_bytes({"x": entry("F4", [2], 0, 8)}, bytes(8)), "unknown dtype 'F4'"),
    "a negative size": (file_bytes({"x": entry("F32", [-2], 0, 8)}, bytes(8)), "at least 0"),
    "a boolean size": (file_bytes({"x": entry("F32", [True], 0, 4)}, bytes(4)), "at least 0"),
    "a fractional size": (file_bytes({"x": entry("F32", [1.0], 0, 4)}, bytes(4)), "at least 0"),
    "three offsets": (file_bytes({"x": X | {"data_offsets": [0, 8, 8]}}, bytes(8)), "two integers"),
    "a negative offset": (file_bytes({"x": entry("F32", [2], -8, 0)}, bytes(8)), "two integers"),
    "offsets the wrong way round": (file_bytes({"x": entry("F32", [2], 8, 0)}, bytes(8)), "takes 8 bytes"),
    "a shape that does not fit": (file_bytes({"x": entry("F32", [3], 0, 8)}, bytes(8)), "takes 12 bytes"),
    "a shape beyond 64 bits": (file_bytes({"x": entry("F32", [2**40, 2**40], 0, 0)}), f"takes {2**82} bytes"),
    "an overlap": (file_bytes(TWO | {"y": entry("F32", [1], 4, 8)}, bytes(8)), "overlaps"),
    "a hole": (file_bytes(TWO | {"y": entry("F32", [1], 12, 16)}, bytes(16)), "hole"),
    "data cut short": (file_bytes(TWO, bytes(11)), "truncated"),
    "data too long": (file_bytes(TWO, bytes(13)), "longer"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, case: str) -> None:
    content, reason = BROKEN[case]
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, content)
    assert reason in str(caught.value)
    assert str(tmp_path / "model.safetensors") in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_missing_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_header(tmp_path / "model.safetensors")


LEAVES = st.none() | st.booleans() | st.integers(-10, 2**70) | st.floats() | st.text(max_size=5)
JSON_VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "U8", "F64", "X"]),
        "shape": st.lists(st.integers(0, 4), max_size=3),
        "data_offsets": st.lists(st.integers(0, 24), min_size=2, max_size=2),
    }
)
HEADERS = st.dictionaries(st.text(max_size=3), ENTRIES | JSON_VALUES, max_size=4)


def assert_tensors_fill_the_file(entries: dict[str, TensorEntry], begin: int, end: int) -> None:
    for found in entries.values():
        assert found.begin == begin
        assert found.end - found.begin == torch.Size(found.shape).numel() * found.dtype.itemsize
        begin = found.end
    assert begin == end


@given(
    header=st.binary(max_size=200) | HEADERS.map(lambda header: json.dumps(header).encode()), data=st.integers(0, 48)
)
@settings(max_examples=400, deadline=None)
def test_random_headers_give_a_checkpoint_error_or_tensors_that_fill_the_file(header: bytes, data: int) -> None:
    try:
        entries = parse_header(HERE, header, 8 + len(header) + data)
    except CheckpointError:
        return
    assert_tensors_fill_the_file(entries, 8 + len(header), 8 + len(header) + data)


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A valid file of up to three tensors with up to three bytes changed, removed or added, digits above all."""
    dtypes = st.sampled_from([torch.float16, torch.int32])
    shapes = st.lists(st.integers(0, 3), max_size=3)
    names = draw(st.sets(st.sampled_from("abc"), max_size=3))
    content = bytearray(
        safetensors.torch.save({name: torch.zeros(draw(shapes), dtype=draw(dtypes)) for name in sorted(names)})
    )
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content) - 1))
        match draw(st.sampled_from(["digit", "set", "cut", "add"])):
            case "digit":
                digits = [index for index, byte in enumerate(content) if chr(byte).isdigit()] or [at]
                content[draw(st.sampled_from(digits))] = ord(draw(st.sampled_from("0123456789-")))
            case "set":
                content[at] = draw(st.integers(0, 255))
            case "cut":
                del content[at]
            case "add":
                content.insert(at, draw(st.integers(0, 255)))
    return bytes(content)


@given(content=damaged_files())
@settings(max_examples=400, deadline=None)
def test_whatever_is_accepted_safetensors_accepts_as_well(content: bytes) -> None:
    header_bytes = int.from_bytes(content[:8], "little")
    if len(content) < 8 or header_bytes > len(content) - 8:
        return
    try:
        entries = parse_header(HERE, content[8 : 8 + header_bytes], len(content))
    except CheckpointError:
        return
    assert_tensors_fill_the_file(entries, 8 + header_bytes, len(content))
    expected = safetensors.torch.load(content)
    assert {name: found.shape for name, found in entries.items()} == {
        name: tuple(tensor.shape) for name, tensor in expected.items()
    }
