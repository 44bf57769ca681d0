"""Request traces in CSV files: our own format and three public ones, recognised by their column names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastserve.errors import InvalidArgumentError
from fastserve.workload.csv_columns import read_columns, read_header, read_texts, require_column
from fastserve.workload.workload import MAX_TOKENS, NO_CONVERSATION, Workload

# Our own format; `PROMPT_COLUMN` may follow.
COLUMNS = ("arrival_s", "prompt_tokens", "output_tokens", "priority", "conversation")
PROMPT_COLUMN = "prompt_token_ids"

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_SHAREGPT = ("num_prefill_tokens", "num_decode_tokens")
_PAIRS = ("input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Trace:
    """What a file says of its requests: in the order of arrival where it has times, else in that of the file.

    Attributes:
        arrival_s: float64[n], not decreasing; None = the file has no times.
        prompt_tokens, output_tokens, priority, conversation: int64[n], as in `Workload`.
        prompts: recorded token ids of every prompt, or None.
    """

    arrival_s: np.ndarray | None
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    priority: np.ndarray
    conversation: np.ndarray
    prompts: tuple[np.ndarray, ...] | None = None

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    def take(self, rows: np.ndarray) -> "Trace":
        """The rows with these numbers, in this order."""
        return Trace(
            None if self.arrival_s is None else self.arrival_s[rows],
            self.prompt_tokens[rows],
            self.output_tokens[rows],
            self.priority[rows],
            self.conversation[rows],
            None if self.prompts is None else tuple(self.prompts[row] for row in rows),
        )


def read_trace(path: str | Path) -> Trace:
    """Read request lengths, and whatever else the file has.

    Formats, by their columns (others are ignored):
        arrival_s,prompt_tokens,output_tokens[,priority][,conversation]: ours, as `fastserve serve --record` writes it;
            prompt_token_ids may follow.
        TIMESTAMP,ContextTokens,GeneratedTokens: the Azure LLM inference traces.
        num_prefill_tokens,num_decode_tokens: ShareGPT turns; a prompt shorter than prompt + output of the row before
            starts a new conversation.
        input_tokens,output_tokens: lengths alone.
    Raises:
        InvalidArgumentError: unknown columns, no rows, or a bad row; names file, line, column, value and rule.
    """
    path = Path(path)
    header = read_header(path)
    if set(COLUMNS[:3]) <= set(header):
        trace = _read_ours(path, header)
    elif set(_AZURE) <= set(header):
        trace = _read_azure(path)
    elif set(_SHAREGPT) <= set(header):
        trace = _read_sharegpt(path)
    elif set(_PAIRS) <= set(header):
        trace = lengths_alone(*_read_lengths(path, _PAIRS).values())
    else:
        known = " or ".join(",".join(names) for names in (COLUMNS[:3], _AZURE, _SHAREGPT, _PAIRS))
        raise InvalidArgumentError(f"{path}:1: a trace must have the columns {known}, got {','.join(header):.200}")
    if not len(trace):
        raise InvalidArgumentError(f"{path}: a trace must have at least one request, got none")
    return trace if trace.arrival_s is None else trace.take(np.argsort(trace.arrival_s, kind="stable"))


def write_trace(path: str | Path, workload: Workload) -> None:
    """Write a workload in our own format, without its prompts; `read_trace` gives the same numbers back."""
    with Path(path).open("w", encoding="utf-8") as file:
        file.write(trace_header())
        rows = zip(*(getattr(workload, name).tolist() for name in COLUMNS), strict=True)
        file.writelines(trace_line(row) for row in rows)


def trace_header(*, prompts: bool = False) -> str:
    """The first line of our own format, with its line end."""
    return ",".join((*COLUMNS, PROMPT_COLUMN) if prompts else COLUMNS) + "\n"


def trace_line(values: Iterable[object], *, prompt_ids: Sequence[int] | None = None) -> str:
    """One row of our own format, with its line end."""
    fields = [repr(value) for value in values]
    if prompt_ids is not None:
        fields.append(" ".join(map(str, prompt_ids)))
    return ",".join(fields) + "\n"


def lengths_alone(prompt_tokens: np.ndarray, output_tokens: np.ndarray) -> Trace:
    """A trace of these lengths, int64[n], without times, priorities or conversations."""
    none = np.full_like(prompt_tokens, NO_CONVERSATION)
    return Trace(None, prompt_tokens, output_tokens, np.zeros_like(prompt_tokens), none)


def _read_lengths(path: Path, names: tuple[str, ...], *, times: str = "") -> dict[str, np.ndarray]:
    """Columns, the last two of which are lengths: int64, checked."""
    columns = read_columns(path, names, times=times)
    for name in names[-2:]:
        columns[name] = _whole(path, name, columns[name], 1, MAX_TOKENS)
    return columns


def _read_ours(path: Path, header: list[str]) -> Trace:
    optional = [name for name in COLUMNS[3:] if name in header]
    columns = read_columns(path, [*COLUMNS[:3], *optional])
    arrival_s, prompt, output = (columns[name] for name in COLUMNS[:3])
    require_column(path, "arrival_s", arrival_s, np.isfinite(arrival_s) & (arrival_s >= 0), "at least 0 and finite")
    zero = np.zeros(len(arrival_s))
    return Trace(
        arrival_s,
        _whole(path, "prompt_tokens", prompt, 1, MAX_TOKENS),
        _whole(path, "output_tokens", output, 1, MAX_TOKENS),
        _whole(path, "priority", columns.get("priority", zero), -(2**31), MAX_TOKENS),
        _whole(path, "conversation", columns.get("conversation", zero + NO_CONVERSATION), NO_CONVERSATION, 2**53),
        _read_prompts(path, prompt) if PROMPT_COLUMN in header else None,
    )


def _read_prompts(path: Path, prompt_tokens: np.ndarray) -> tuple[np.ndarray, ...]:
    """Token ids, separated by spaces, as many as the prompt has."""
    prompts: list[np.ndarray] = []
    for line, text in read_texts(path, PROMPT_COLUMN):
        try:
            ids = np.array(text.split(), np.int32)
        except (ValueError, OverflowError):
            ids = np.zeros(0, np.int32)
        wanted = prompt_tokens[len(prompts)]
        if len(ids) != wanted or ids.min(initial=0) < 0:
            rule = f"must be {wanted:g} token ids separated by spaces"
            raise InvalidArgumentError(f"{path}:{line}: {PROMPT_COLUMN} {rule}, got {text!r:.60}")
        prompts.append(ids)
    return tuple(prompts)


def _read_azure(path: Path) -> Trace:
    columns = _read_lengths(path, _AZURE, times="TIMESTAMP")
    time = columns["TIMESTAMP"]
    require_column(path, "TIMESTAMP", time, ~np.isnat(time), "a date and time")
    start = time.min() if len(time) else None
    arrival_s = (time - start) / np.timedelta64(1, "s") if len(time) else np.zeros(0)
    alone = lengths_alone(columns["ContextTokens"], columns["GeneratedTokens"])
    return Trace(arrival_s, alone.prompt_tokens, alone.output_tokens, alone.priority, alone.conversation)


def _read_sharegpt(path: Path) -> Trace:
    prompt, output = _read_lengths(path, _SHAREGPT).values()
    before = np.concatenate(([np.iinfo(np.int64).max], (prompt + output)[:-1]))[: len(prompt)]
    conversation = np.cumsum(prompt < before) - 1
    return Trace(None, prompt, output, np.zeros_like(prompt), conversation)


def _whole(path: Path, name: str, values: np.ndarray, low: int, high: int) -> np.ndarray:
    """The column as int64, checked against its range."""
    good = (values >= low) & (values <= high) & (np.floor(values) == values)
    require_column(path, name, values, good, f"a whole number between {low} and {high}")
    return values.astype(np.int64)
