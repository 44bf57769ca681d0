"""Fast reading of named columns from a CSV file, with errors that name the line."""

import csv
import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from fastserve.errors import InvalidArgumentError

csv.field_size_limit(1 << 30)  # recorded prompts are long fields; the module's own limit is 128 KiB


def read_header(path: Path) -> list[str]:
    """The names in the first line.

    Raises:
        InvalidArgumentError: the file cannot be read, or has no first line.
    """
    _, header = next(_rows(path), (1, []))
    if not header:
        raise InvalidArgumentError(f"{path}:1: a trace must begin with a line of column names, got an empty line")
    return [name.strip() for name in header]


def read_columns(path: Path, names: Sequence[str], *, times: str = "") -> dict[str, np.ndarray]:
    """Read columns of numbers, float64[n] each; blank lines are skipped, other columns ignored.

    Args:
        path: a CSV file whose first line names its columns.
        names: columns to read.
        times: one of them, when it holds dates ("2023-11-16 18:17:03.97"): datetime64[ns].
    Raises:
        InvalidArgumentError: a value is missing or of another kind; names file, line, column and value.
    """
    header = read_header(path)
    dtype = np.dtype([(name, "S40" if name == times else np.float64) for name in names])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # an empty trace is for the caller to judge
            table = np.loadtxt(
                path,
                dtype,
                comments=None,
                delimiter=",",
                skiprows=1,
                usecols=[header.index(name) for name in names],
                quotechar='"',
                encoding="utf-8",
                ndmin=1,
            )
        columns = {name: np.ascontiguousarray(table[name]) for name in names}
        if times:
            columns[times] = _dates(columns[times])
    except ValueError as error:
        _explain(path, header, names, times, str(error))
    return columns


def read_texts(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of a column, row by row; blank lines are skipped, missing fields are empty."""
    column = read_header(path).index(name)
    for line, fields in itertools.islice(_rows(path), 1, None):
        yield line, fields[column] if column < len(fields) else ""


def require_column(path: Path, name: str, values: np.ndarray, good: np.ndarray, rule: str) -> None:
    """Check a rule for every row of a column.

    Raises:
        InvalidArgumentError: a row breaks it; names file, line, column and value.
    """
    if not good.all():
        row = int(np.argmin(good))
        value = values[row]
        shown = f"{value:g}" if isinstance(value, np.floating) else str(value)
        raise InvalidArgumentError(f"{path}:{line_of_row(path, row)}: {name} must be {rule}, got {shown}")


def line_of_row(path: Path, row: int) -> int:
    """Return the line number of a row, from 1."""
    line, _ = next(itertools.islice(_rows(path), row + 1, None))
    return line


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of the header and of every row, the slow way; what is not UTF-8 is replaced.

    Raises:
        InvalidArgumentError: the file cannot be opened, or a line is no CSV.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as lines:
            reader = csv.reader(lines)
            yield reader.line_num + 1, next(reader, [])
            for fields in filter(None, reader):
                yield reader.line_num, fields
    except (OSError, csv.Error) as error:
        raise InvalidArgumentError(f"the trace {path} cannot be read: {error}") from None


def _dates(texts: np.ndarray) -> np.ndarray:
    """datetime64[ns]; a "Z" or "+00:00" behind the time is understood."""
    for suffix in (b"+00:00", b"Z"):
        if (texts.view(np.uint8) == suffix[0]).any():  # replacing takes longer than all the rest
            texts = np.char.replace(texts, suffix, b"")
    return texts.astype("datetime64[ns]")


def _explain(path: Path, header: list[str], names: Sequence[str], times: str, fallback: str) -> NoReturn:
    """Find the line that the fast reader could not take."""
    for line, fields in itertools.islice(_rows(path), 1, None):
        for name in names:
            column = header.index(name)
            where = f"{path}:{line}: {name}"
            if column >= len(fields):
                raise InvalidArgumentError(f"{where} is missing; the line has {len(fields)} of {len(header)} fields")
            kind = "a date and time" if name == times else "a number"
            if not _is_readable(fields[column], name == times):
                raise InvalidArgumentError(f"{where} must be {kind}, got {fields[column]!r:.100}")
    raise InvalidArgumentError(f"the trace {path} cannot be read: {fallback}")


def _is_readable(text: str, is_time: bool) -> bool:
    try:
        _dates(np.array([text.encode()])) if is_time else float(text)
    except ValueError:
        return False
    return True
