"""The header of a safetensors file, checked before anything is read by it.

A file is 8 bytes of header length (little endian), a JSON header, then the tensors. The header maps names to
{"dtype", "shape", "data_offsets": [begin, end]}, offsets counted from the end of the header. Source: the format
description of huggingface/safetensors; like that library, holes and overlaps between tensors are refused.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from fastserve.errors import CheckpointError

# Far beyond any published file, and little enough that a hostile header is refused within a second.
MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 50_000
MAX_DIMS = 8
# What a tensor takes of the header's JSON, so that its values can be counted before they are made.
MARKS_PER_TENSOR = {b"{": 1, b"[": 2, b":": 4}
LENGTH_BYTES = 8
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: bytes [begin, end) from the start of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def _broken(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a valid safetensors file: {what}; download the checkpoint again")


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice")
    return values


def _entry(path: Path, name: str, value: object, data_begin: int) -> TensorEntry:
    where = f"tensor {name!r:.200}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _broken(path, f"{where} must have exactly dtype, shape and data_offsets")
    dtype_name, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype_name, str) or dtype_name not in DTYPES:
        raise _broken(path, f"{where} has the unknown dtype {dtype_name!r:.50} (known: {', '.join(DTYPES)})")
    if isinstance(shape, list) and len(shape) > MAX_DIMS:
        raise _broken(path, f"{where} has {len(shape)} dimensions, at most {MAX_DIMS} are accepted")
    if not isinstance(shape, list) or not all(_is_size(size) for size in shape):
        raise _broken(path, f"{where} has the shape {shape!r:.200}, sizes must be integers of at least 0")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(offset) for offset in offsets):
        raise _broken(path, f"{where} has the data_offsets {offsets!r:.200}, expected two integers of at least 0")
    dtype = DTYPES[dtype_name]
    num_bytes = dtype.itemsize
    for size in shape:
        num_bytes *= size
    begin, end = offsets
    if end - begin != num_bytes:
        raise _broken(
            path, f"{where} of {dtype_name} {shape} takes {num_bytes} bytes, its offsets {offsets} hold {end - begin}"
        )
    return TensorEntry(dtype, tuple(shape), data_begin + begin, data_begin + end)


def parse_header(path: Path, header: bytes, file_bytes: int) -> dict[str, TensorEntry]:
    """Check a header against the size of its file and return the tensors by name, in the order of their bytes.

    Args:
        path: for messages.
        header: the JSON, without the length before it.
        file_bytes: size of the whole file.
    Raises:
        CheckpointError: what is wrong, with the tensor's name.
    """
    for mark, count in MARKS_PER_TENSOR.items():
        if header.count(mark) > count * MAX_TENSORS:
            raise _broken(path, f"its header must have at most {MAX_TENSORS} tensors")
    try:
        values = json.loads(header.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise _broken(path, f"its header is not JSON ({error!s:.200})") from error
    if not isinstance(values, dict):
        raise _broken(path, "its header must be a JSON object")
    metadata = values.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(path, f"{METADATA} must map strings to strings")
    data_begin = LENGTH_BYTES + len(header)
    entries = {name: _entry(path, name, value, data_begin) for name, value in values.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    position = data_begin
    for name, entry in entries.items():
        if entry.begin != position:
            kind = "overlaps the tensor before it" if entry.begin < position else "leaves a hole before it"
            raise _broken(path, f"tensor {name!r:.200} {kind}: starts at byte {entry.begin}, expected {position}")
        position = entry.end
    if position != file_bytes:
        kind = "truncated" if position > file_bytes else "longer than its header says"
        raise _broken(path, f"it is {kind}: expected {position} bytes, found {file_bytes}")
    return entries


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read and check the header of a file; tensors by name, in the order of their bytes.

    Raises:
        CheckpointError: the file cannot be read or is not valid.
    """
    try:
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            prefix = file.read(LENGTH_BYTES)
            if len(prefix) < LENGTH_BYTES:
                raise _broken(path, f"it has {file_bytes} bytes, at least {LENGTH_BYTES} are needed")
            header_bytes = int.from_bytes(prefix, "little")
            if header_bytes > MAX_HEADER_BYTES:
                raise _broken(path, f"its header claims {header_bytes} bytes, at most {MAX_HEADER_BYTES} are accepted")
            if LENGTH_BYTES + header_bytes > file_bytes:
                raise _broken(
                    path,
                    f"it is truncated: the header alone takes {LENGTH_BYTES + header_bytes} bytes, found {file_bytes}",
                )
            header = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    return parse_header(path, header, file_bytes)
