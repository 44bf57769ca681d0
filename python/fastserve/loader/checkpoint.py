"""Weights of a checkpoint folder, read tensor by tensor into memory that the layers own."""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import torch

from fastserve.errors import CheckpointError
from fastserve.loader.kind import INDEX, listed
from fastserve.loader.safetensors import TensorEntry, read_header
from fastserve.loader.weight_files import weight_files

STAGE_BYTES = 32 << 20
READABLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

# Called after every tensor with its name, the bytes read so far and those of all tensors.
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
        progress: called after every tensor.
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

    def read_into(self, name: str, out: torch.Tensor) -> None:
        """Fill `out` with the named tensor; see `WeightSource`."""
        self.expect(name, tuple(out.shape))
        path, entry = self._entries[name]
        self._read(path, entry, out.view(-1))
        self._unread.discard(name)
        self._bytes_done += entry.end - entry.begin
        if self._progress is not None:
            self._progress(name, self._bytes_done, self._bytes_total)

    def check_all_read(self) -> None:
        """Raise CheckpointError when tensors were left unread: the weights are of another model than config.json."""
        if self._unread:
            raise CheckpointError(
                f"{self._folder} holds tensors that the model of its config.json has no place for:"
                f" {listed(self._unread)}; config.json and weights are not of the same model"
            )

    def _read(self, path: Path, entry: TensorEntry, out: torch.Tensor) -> None:
        file = self._open_files.get(path)
        try:
            if file is None:
                file = self._open_files[path] = self._stack.enter_context(path.open("rb", buffering=0))
            file.seek(entry.begin)
            if out.dtype == entry.dtype and out.device.type == "cpu":
                self._fill(path, file, out)
            else:
                self._fill_converted(path, file, entry.dtype, out)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error

    def _fill_converted(self, path: Path, file: FileIO, dtype: torch.dtype, out: torch.Tensor) -> None:
        if self._stage is None:
            self._stage = torch.empty(STAGE_BYTES, dtype=torch.uint8)
        stage = self._stage.view(dtype)
        for begin in range(0, out.numel(), stage.numel()):
            piece = stage[: min(stage.numel(), out.numel() - begin)]
            self._fill(path, file, piece)
            converted = out[begin : begin + piece.numel()].copy_(piece)
            if out.dtype == torch.float16 and not converted.isfinite().all():
                raise CheckpointError(f"{path} holds values that float16 cannot: use --dtype bfloat16 or float32")

    @staticmethod
    def _fill(path: Path, file: FileIO, out: torch.Tensor) -> None:
        view = memoryview(out.view(torch.uint8).numpy().data)
        while view:
            count = file.readinto(view)
            if not count:
                raise CheckpointError(f"{path} became shorter while it was read; download the checkpoint again")
            view = view[count:]
