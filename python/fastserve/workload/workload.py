"""A workload: when requests arrive and how long they are. Prompts are drawn from the seed when they are asked for."""

from dataclasses import dataclass, replace

import numpy as np

from fastserve.errors import InvalidArgumentError

NO_CONVERSATION = -1
MAX_TOKENS = 2**31 - 1

# Ids below this are special tokens in most vocabularies; prompts keep clear of them where the vocabulary allows it.
FIRST_TOKEN_ID = 3

# Kinds of token streams, part of their random key.
_ALONE, _CONVERSATION = 0, 1


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """Requests in the order of their arrival; arrays are checked, converted to the types below and made read-only.

    Attributes:
        name: for reports.
        arrival_s: float64[n], seconds from the start, not decreasing.
        prompt_tokens: int32[n], at least 1.
        output_tokens: int32[n], at least 1.
        priority: int32[n], lower runs first.
        conversation: int64[n]; -1 = none. The prompt of a later turn begins with the whole prompt and output of the
            turn before it, so it is at least as long.
        seed: of the prompts.
        first_row: row of the whole workload at which this part of it begins; prompts follow that row.
        prompts: token ids of every prompt, where they were recorded.
    Raises:
        InvalidArgumentError: a rule above is broken; names the first row that breaks it.
    """

    name: str
    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    output_tokens: np.ndarray
    priority: np.ndarray
    conversation: np.ndarray
    seed: int = 0
    first_row: int = 0
    prompts: tuple[np.ndarray, ...] | None = None

    def __post_init__(self) -> None:
        for name, dtype in (
            ("arrival_s", np.float64),
            ("prompt_tokens", np.int32),
            ("output_tokens", np.int32),
            ("priority", np.int32),
            ("conversation", np.int64),
        ):
            object.__setattr__(self, name, _column(name, getattr(self, name), dtype, len(self.arrival_s)))
        _require(0 <= self.seed < 2**63, f"the seed must be between 0 and 2^63 - 1, got {self.seed}")
        _require_rows(np.isfinite(self.arrival_s) & (self.arrival_s >= 0), self.arrival_s, "arrival_s must be >= 0")
        _require_rows(np.diff(self.arrival_s, prepend=0.0) >= 0, self.arrival_s, "arrival_s must not decrease")
        _require_rows(self.prompt_tokens >= 1, self.prompt_tokens, "prompt_tokens must be at least 1")
        _require_rows(self.output_tokens >= 1, self.output_tokens, "output_tokens must be at least 1")
        _require_rows(self.conversation >= NO_CONVERSATION, self.conversation, "conversation must be at least -1")
        self._check_turns()
        self._check_prompts()

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __getitem__(self, rows: slice) -> "Workload":
        """A part of consecutive rows, at the same times and with the same prompts."""
        start, stop, step = rows.indices(len(self))
        _require(step == 1, f"a part of a workload must have step 1, got {step}")
        stop = max(start, stop)
        return replace(
            self,
            arrival_s=self.arrival_s[start:stop],
            prompt_tokens=self.prompt_tokens[start:stop],
            output_tokens=self.output_tokens[start:stop],
            priority=self.priority[start:stop],
            conversation=self.conversation[start:stop],
            first_row=self.first_row + start,
            prompts=None if self.prompts is None else self.prompts[start:stop],
        )

    def head(self, n: int) -> "Workload":
        """The first n requests, or all when there are fewer."""
        _require(n >= 0, f"the number of requests must be at least 0, got {n}")
        return self[:n]

    def scaled(self, factor: float) -> "Workload":
        """All lengths times a factor, rounded, at least 1; turns of a conversation go on sharing their prefix.

        Recorded prompts are dropped: they have lengths of their own.
        """
        _require(0.0 < factor < 1e6, f"the factor on lengths must be above 0, got {factor}")
        former = self.former_turn()
        total = self.prompt_tokens.astype(np.int64) + self.output_tokens
        shared = np.where(former >= 0, total[former], 0)
        fresh = np.rint((self.prompt_tokens - shared) * factor).astype(np.int64)
        fresh = np.maximum(fresh, former < 0)
        output = np.maximum(np.rint(self.output_tokens * factor).astype(np.int64), 1)
        prompt = _accumulate(self.conversation, fresh + output) - output
        return replace(self, prompt_tokens=prompt, output_tokens=output, prompts=None)

    def former_turn(self) -> np.ndarray:
        """int64[n]: the row of the turn before in the same conversation, -1 where there is none."""
        former = np.full(len(self), -1, np.int64)
        rows = np.flatnonzero(self.conversation != NO_CONVERSATION)
        rows = rows[np.argsort(self.conversation[rows], kind="stable")]
        later = np.flatnonzero(np.diff(self.conversation[rows]) == 0) + 1
        former[rows[later]] = rows[later - 1]
        return former

    def prompt_ids(self, i: int, vocab_size: int) -> np.ndarray:
        """The prompt of request i, int32[prompt_tokens[i]]: always the same for the same seed, row and vocabulary.

        A later turn of a conversation begins with `prompt_ids` and `output_ids` of the turn before it.

        Raises:
            InvalidArgumentError: there is no request i, or a recorded id is not in the vocabulary.
        """
        self._check_row(i)
        if self.prompts is None:
            return self._stream(i, int(self.prompt_tokens[i]), vocab_size)
        ids = self.prompts[i]
        top = int(ids.max())
        _require(top < vocab_size, f"token ids must be below the vocabulary's {vocab_size}, request {i} has {top}")
        return ids

    def output_ids(self, i: int, vocab_size: int) -> np.ndarray:
        """What the next turn of the conversation takes for the output of request i, int32[output_tokens[i]]."""
        self._check_row(i)
        prompt = int(self.prompt_tokens[i])
        return self._stream(i, prompt + int(self.output_tokens[i]), vocab_size)[prompt:]

    def _stream(self, i: int, length: int, vocab_size: int) -> np.ndarray:
        """The first tokens of what conversation or request i consists of; a shorter stream begins a longer one."""
        _require(1 <= vocab_size <= MAX_TOKENS, f"the vocabulary must have at least 1 token, got {vocab_size}")
        conversation = int(self.conversation[i])
        alone = conversation == NO_CONVERSATION
        key = (self.seed, _ALONE, self.first_row + i) if alone else (self.seed, _CONVERSATION, conversation)
        low = FIRST_TOKEN_ID if vocab_size > FIRST_TOKEN_ID else 0
        return np.random.default_rng(key).integers(low, vocab_size, length, dtype=np.int32)

    def _check_row(self, i: int) -> None:
        _require(0 <= i < len(self), f"the request must be between 0 and {len(self) - 1}, got {i}")

    def _check_turns(self) -> None:
        former = self.former_turn()
        total = self.prompt_tokens.astype(np.int64) + self.output_tokens
        enough = (former < 0) | (self.prompt_tokens >= total[former])
        rule = "prompt_tokens of a later turn must cover prompt and output of the turn before it"
        _require_rows(enough, self.prompt_tokens, rule)

    def _check_prompts(self) -> None:
        if self.prompts is not None:
            _require(len(self.prompts) == len(self), f"prompts must have {len(self)} rows, got {len(self.prompts)}")
            lengths = np.array([len(ids) for ids in self.prompts], np.int64)
            _require_rows(lengths == self.prompt_tokens, lengths, "a recorded prompt must have prompt_tokens ids")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidArgumentError(message)


def _require_rows(good: np.ndarray, values: np.ndarray, rule: str) -> None:
    if not good.all():
        row = int(np.argmin(good))
        raise InvalidArgumentError(f"{rule}, got {values[row]} in row {row}")


def _column(name: str, values: np.ndarray, dtype: type, rows: int) -> np.ndarray:
    """A read-only array of the column's type.

    Raises:
        InvalidArgumentError: wrong number of rows, or values that the type cannot hold.
    """
    given = np.asarray(values)
    _require(given.shape == (rows,), f"{name} must have {rows} rows, got shape {given.shape}")
    if np.issubdtype(dtype, np.integer):
        _require(np.issubdtype(given.dtype, np.integer), f"{name} must hold integers, got {given.dtype}")
        limits = np.iinfo(dtype)
        _require_rows((given >= limits.min) & (given <= limits.max), given, f"{name} must fit {np.dtype(dtype)}")
    column: np.ndarray = given.astype(dtype)
    column.setflags(write=False)
    return column


def _accumulate(conversation: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of `values` over the turns of each conversation so far; rows without one stand alone."""
    order = np.argsort(conversation, kind="stable")
    sums = np.cumsum(values[order])
    key = conversation[order]
    first = (np.diff(key, prepend=NO_CONVERSATION) != 0) | (key == NO_CONVERSATION)
    starts = np.maximum.accumulate(np.where(first, np.arange(len(key)), 0))
    result = np.empty_like(sums)
    result[order] = sums - (sums - values[order])[starts]
    return result
