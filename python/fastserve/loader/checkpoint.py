"""Weights of a checkpoint folder, read tensor by tensor into memory that the layers own."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import torch

from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.loader.kind import INDEX, listed
from fastserve.loader.safetensors import TensorEntry, read_header
from fastserve.loader.weight_files import weight_files

STAGE_BYTES = 32 << 20
READABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Called once per tensor, when some of it is read or it is left to other ranks, with its name, the bytes of the tensors so
# far and those of all.
Progress = Callable[[str, int, int], None]


def stored_dtype(folder: Path) -> torch.dtype:
    """The type of most bytes in the first weight file of a checkpoint.

    Raises:
        CheckpointError: as `weight_files` and `read_header`.
    """
    entries = read_header(next(iter(weight_files(folder)))).values()
    num_bytes = Counter[torch.dtype]()
    for entry in entries:
        num_bytes[entry.dtype] += entry.end - entry.begin
    return max(num_bytes, key=num_bytes.__getitem__, default=torch.float32)


class CheckpointWeights:
    """A `WeightSource` over the safetensors files of a folder. Use as a context manager; files stay open inside.

    Nothing is mapped: a file that is cut short while it is read gives an error, not a bus error.

    Args:
        ignored: regular expressions; a tensor whose whole name matches one is treated as if it were not there.
        progress: called for every tensor.
    Raises:
        CheckpointError: on construction, when a file or the index is not valid.
    """

    def __init__(self, folder: Path, *, ignored: Iterable[str] = (), progress: Progress | None = None) -> None:
        self._folder = folder
        self._progress = progress
        self._ignored = re.compile("|".join(f"(?:{pattern})" for pattern in ignored) or r"(?!)")
        self._entries: dict[str, tuple[Path, TensorEntry]] = {}
        for path, expected in weight_files(folder).items():
            self._add(path, expected)
        self._unread = set(self._entries)
        self._bytes_total = sum(entry.end - entry.begin for _, entry in self._entries.values())
        self._bytes_done = 0
        self._open_files: dict[Path, FileIO] = {}
        self._stack = ExitStack()
        self._stage: torch.Tensor | None = None

    def _add(self, path: Path, expected: set[str] | None) -> None:
        header = read_header(path)
        if expected is not None and (missing := expected - header.keys()):
            raise CheckpointError(f"{path} lacks {listed(missing)}, which {INDEX} places there")
        for name, entry in header.items():
            if name in self._entries:
                raise CheckpointError(f"{path} holds {name} a second time: it is in {self._entries[name][0]} as well")
            if not self._ignored.fullmatch(name):
                self._entries[name] = (path, entry)

    def __enter__(self) -> "CheckpointWeights":
        return self

    def __exit__(self, *_: object) -> None:
        self._open_files.clear()
        self._stack.close()

    def has(self, name: str) -> bool:
        """Whether a tensor of this name exists."""
        return name in self._entries

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuse a tensor that is missing, of another shape or of a type that cannot be read; see `WeightSource`."""
        if name not in self._entries:
            raise CheckpointError(f"{self._folder} lacks the tensor {name} {shape}, which config.json asks for")
        path, entry = self._entries[name]
        if entry.shape != shape:
            raise CheckpointError(
                f"{path}: {name} must have the shape {shape} according to config.json, found {entry.shape}"
            )
        if entry.dtype not in READABLE:
            raise CheckpointError(
                f"{path}: {name} must be a floating-point tensor of 16 bits or more, found {entry.dtype}: quantised"
                f" checkpoints are not supported"
            )

    def read_into(
        self, name: str, out: torch.Tensor, *, rows: range | None = None, columns: range | None = None
    ) -> None:
        """Fill `out` with the named tensor or a slice of it; see `WeightSource`. No more of it is in memory at a time
        than the slice and a stage of STAGE_BYTES."""
        if rows is None and columns is None:
            self.expect(name, tuple(out.shape))
        else:
            self._expect_slice(name, tuple(out.shape), rows, columns)
        path, entry = self._entries[name]
        self._read(path, entry, out, rows.start if rows is not None else 0, columns)
        self._count(name)

    def leave(self, name: str) -> None:
        """Count the named tensor as read; see `WeightSource`."""
        self._count(name)

    def _count(self, name: str) -> None:
        if name not in self._unread:
            return
        _, entry = self._entries[name]
        self._unread.discard(name)
        self._bytes_done += entry.end - entry.begin
        if self._progress is not None:
            self._progress(name, self._bytes_done, self._bytes_total)

    def _expect_slice(self, name: str, out: tuple[int, ...], rows: range | None, columns: range | None) -> None:
        """Refuse a slice that the tensor does not have, or that is not of the shape `out`."""
        if name not in self._entries:
            self.expect(name, out)
        path, entry = self._entries[name]
        self.expect(name, entry.shape)
        shape = list(entry.shape)
        for what, dim, part in (("rows", 0, rows), ("columns", 1, columns)):
            if part is None:
                continue
            size = shape[dim] if dim < len(shape) else 0
            if part.step != 1 or not 0 <= part.start <= part.stop <= size or (dim == 1 and len(shape) != 2):
                raise CheckpointError(
                    f"{path}: {name} of shape {entry.shape} has no {what} {part.start} to {part.stop}, which this rank needs"
                )
            shape[dim] = len(part)
        if tuple(shape) != out:
            raise InvalidArgumentError(f"the slice of {name} has the shape {tuple(shape)}, that to fill has {out}")

    def check_all_read(self) -> None:
        """Raise CheckpointError when tensors were left unread: the weights are of another model than config.json."""
        if self._unread:
            raise CheckpointError(
                f"{self._folder} holds tensors that the model of its config.json has no place for:"
                f" {listed(self._unread)}; config.json and weights are not of the same model"
            )

    def _read(self, path: Path, entry: TensorEntry, out: torch.Tensor, first_row: int, columns: range | None) -> None:
        file = self._open_files.get(path)
        try:
            if file is None:
                file = self._open_files[path] = self._stack.enter_context(path.open("rb", buffering=0))
            file.seek(entry.begin + first_row * math.prod(entry.shape[1:]) * entry.dtype.itemsize)
            if columns is None:
                self._fill(path, file, entry.dtype, out.view(-1))
            else:
                self._fill_columns(path, file, entry, out, columns)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error

    def _fill_columns(self, path: Path, file: FileIO, entry: TensorEntry, out: torch.Tensor, columns: range) -> None:
        """Read whole rows into the stage, as many as it holds, and cut the columns out of them."""
        width, stage = entry.shape[1], self._stage_of(entry.dtype)
        rows_at_once = stage.numel() // max(width, 1)
        if rows_at_once == 0:  # a row is longer than the stage
            first_byte = file.tell()
            for i, row in enumerate(out):
                file.seek(first_byte + (i * width + columns.start) * entry.dtype.itemsize)
                self._fill(path, file, entry.dtype, row)
            return
        for part in torch.split(out, rows_at_once):
            rows = stage[: len(part) * width]
            self._fill_exactly(path, file, rows)
            self._convert(path, rows.view(len(part), width)[:, columns.start : columns.stop], part)

    def _fill(self, path: Path, file: FileIO, dtype: torch.dtype, out: torch.Tensor) -> None:
        """Fill a contiguous vector with what comes next in the file."""
        if out.dtype == dtype and out.device.type == "cpu":
            self._fill_exactly(path, file, out)
            return
        stage = self._stage_of(dtype)
        for part in torch.split(out, stage.numel()):
            values = stage[: part.numel()]
            self._fill_exactly(path, file, values)
            self._convert(path, values, part)

    def _stage_of(self, dtype: torch.dtype) -> torch.Tensor:
        if self._stage is None:
            self._stage = torch.empty(STAGE_BYTES, dtype=torch.uint8)
        return self._stage.view(dtype)

    @staticmethod
    def _convert(path: Path, values: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(values)
        if out.dtype == torch.float16 and values.dtype != torch.float16 and not out.isfinite().all():
            raise CheckpointError(f"{path} holds values that float16 cannot: use --dtype bfloat16 or float32")

    @staticmethod
    def _fill_exactly(path: Path, file: FileIO, out: torch.Tensor) -> None:
        view = memoryview(out.view(torch.uint8).numpy().data)
        while view:
            count = file.readinto(view)
            if not count:
                raise CheckpointError(f"{path} became shorter while it was read; download the checkpoint again")
            view = view[count:]
