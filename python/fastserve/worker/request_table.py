"""The worker's entries of unfinished requests, by slot: written once when a request starts, freed when it has ended."""

from dataclasses import dataclass

import numpy as np

from fastserve._C.sched import StepPlan
from fastserve.errors import InternalError, cause_of
from fastserve.log import get_logger
from fastserve.ops.sampling import SETTINGS, SamplingBatch
from fastserve.worker.output_masks import OutputMasks, StepMasks
from fastserve.worker.prompt_scores import ScoredRow, ScoredTokens
from fastserve.worker.request_changes import RequestChanges, RequestStart

logger = get_logger(__name__)

FIRST_SLOTS = 64  # room at first; it doubles with the need

_COLUMNS = {
    **SETTINGS,
    "seeds": np.int64,  # bits of an unsigned number, which torch does not have
    "num_logprobs": np.int32,  # -1: none wanted
    "prompt_len": np.int32,
    "min_tokens": np.int32,  # 0 without tokens to ban
    "has_history": np.bool_,
    "only_biased": np.int32,  # not 0: no others than the tokens of its list are sampled
}
_PENALTIES = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Settings that depend on the token history, with the value that switches each off."""
_NO_TOKENS = np.empty(0, np.int32)
_NO_VALUES = np.empty(0, np.float32)


@dataclass(frozen=True, slots=True)
class SamplingEntries:
    """How to sample the S entries of a plan, on the host.

    Attributes:
        batch: arrays of numpy. A history ends in a token that means nothing where the step before samples it.
        num_logprobs: int32[S], -1 for none.
    """

    batch: SamplingBatch
    num_logprobs: np.ndarray


class RequestTable:
    """Settings of requests in columns, gathered for a step by slot; token lists apart, of those requests that need them.

    Used by the thread that launches steps; `record` and `num_logprobs_of` also by the one that finishes them, for plans
    whose requests cannot lose their slots meanwhile.
    """

    def __init__(self, output_masks: OutputMasks | None = None) -> None:
        """Start with no request; without `output_masks` none may have a form."""
        self._output_masks = output_masks
        self._columns: dict[str, np.ndarray] = {name: np.zeros(FIRST_SLOTS, dtype) for name, dtype in _COLUMNS.items()}
        self._num_slots = FIRST_SLOTS
        self._used: set[int] = set()
        self._history: dict[int, np.ndarray] = {}  # prompt and output, as far as known, of those with `has_history`
        self._early: dict[int, np.ndarray] = {}  # tokens banned before min_tokens
        self._bad_words: dict[int, np.ndarray] = {}  # sequences banned throughout, as the sampler takes them
        self._biases: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # tokens and what is added to their logits
        self._scored: dict[int, tuple[np.ndarray, int]] = {}  # prompt, and prompt_logprobs
        self._unusable: dict[int, str] = {}  # why an entry could not be written

    def __len__(self) -> int:
        """Slots in use."""
        return len(self._used)

    def apply(self, changes: RequestChanges) -> None:
        """Free and write entries. If an entry cannot be written, its request alone fails when it is sampled.

        Raises:
            InternalError: a slot is freed that is not in use, or written that is.
        """
        for slot in tuple(self._used) if changes.is_first else changes.ended:
            if slot not in self._used:
                raise InternalError(f"slot {slot} of the request table is freed but not in use")
            self._used.remove(slot)
            for lists in (self._history, self._early, self._bad_words, self._biases, self._scored, self._unusable):
                lists.pop(slot, None)
            if self._output_masks is not None:
                self._output_masks.end(slot)
        for start in changes.started:
            if start.slot in self._used:
                raise InternalError(f"slot {start.slot} of the request table is in use")
            self._used.add(start.slot)
            try:
                self._write(start)
            except Exception as error:
                logger.exception("the entry of a request could not be written")
                self._unusable[start.slot] = cause_of(error)

    def entries(self, plan: StepPlan) -> SamplingEntries:
        """How to sample the entries of a plan.

        Raises:
            InternalError: the table has no usable entry of one of them.
        """
        slots = plan.request_slots[plan.sample_rows]
        if self._unusable:
            self._check_usable(slots)
        lengths = plan.seq_lens[plan.sample_rows]
        column = self._columns
        history_start, history_tokens, history_prompt_len = self._histories(slots, lengths)
        banned_start, banned_tokens = self._bans(slots, lengths)
        bias_start, bias_tokens, bias_values = self._biases_of(slots)
        batch = SamplingBatch(
            **{name: column[name].take(slots) for name in SETTINGS},
            seeds=column["seeds"].take(slots),
            counters=lengths.astype(np.int64),
            history_start=history_start,
            history_tokens=history_tokens,
            history_prompt_len=history_prompt_len,
            banned_start=banned_start,
            banned_tokens=banned_tokens,
            bias_start=bias_start,
            bias_tokens=bias_tokens,
            bias_values=bias_values,
            only_biased=column["only_biased"].take(slots),
        )
        return SamplingEntries(batch, column["num_logprobs"].take(slots))

    def scored_tokens(self, plan: StepPlan) -> ScoredTokens | None:
        """The tokens of a plan that are read where it has prompts whose log-probabilities are wanted; else None."""
        if not self._scored:
            return None
        starts, rows = plan.query_start.tolist(), []
        for row, (slot, end) in enumerate(zip(plan.request_slots.tolist(), plan.seq_lens.tolist(), strict=True)):
            if (found := self._scored.get(slot)) is None:
                continue
            prompt, num_top = found
            first = end - (starts[row + 1] - starts[row])  # position of the row's first token
            targets = prompt[first + 1 : end + 1]
            if len(targets):
                tokens = range(starts[row], starts[row] + len(targets))
                rows.append(ScoredRow(row, tokens, targets, first + 1, num_top))
        if not rows:
            return None
        return ScoredTokens(rows, plan.query_start[1:][plan.sample_rows].astype(np.int64) - 1)

    def num_logprobs_of(self, plan: StepPlan) -> np.ndarray:
        """Return how many likeliest tokens each sampling entry of a plan asks for, int32[S]; -1 for no log-probabilities."""
        return self._columns["num_logprobs"].take(plan.request_slots[plan.sample_rows])

    def begin_masks(self, plan: StepPlan) -> StepMasks | None:
        """Begin to fill the masks of a plan; None where no entry has a form."""
        return None if self._output_masks is None else self._output_masks.begin(plan)

    def record(self, plan: StepPlan, tokens: np.ndarray) -> None:
        """Note what the entries of a plan sampled, int32[S]; negative tokens end their requests."""
        if self._output_masks is not None:
            self._output_masks.take(plan, tokens)
        if not self._history or not tokens.size:
            return
        slots = plan.request_slots[plan.sample_rows]
        lengths = plan.seq_lens[plan.sample_rows]
        for entry in self._columns["has_history"].take(slots).nonzero()[0].tolist():
            self._history[int(slots[entry])][lengths[entry]] = max(int(tokens[entry]), 0)

    def _write(self, start: RequestStart) -> None:
        slot, sampling = start.slot, start.sampling
        while slot >= self._num_slots:
            self._columns = {
                name: np.concatenate([values, np.zeros_like(values)]) for name, values in self._columns.items()
            }
            self._num_slots *= 2
        column = self._columns
        for name in SETTINGS:
            column[name][slot] = getattr(sampling, name)
        column["seeds"][slot] = np.uint64(start.seed).astype(np.int64)
        column["num_logprobs"][slot] = -1 if sampling.logprobs is None else sampling.logprobs
        column["prompt_len"][slot] = len(start.prompt)
        has_history = any(column[name][slot] != neutral for name, neutral in _PENALTIES.items())
        has_history |= any(len(word) > 1 for word in start.bad_word_ids)
        column["has_history"][slot] = has_history
        # A form holds end tokens back by itself: it knows whether anything else may come.
        bans = sampling.structured_outputs is None and bool(start.stop_token_ids)
        column["min_tokens"][slot] = sampling.min_tokens if bans else 0
        if has_history:
            history = np.zeros(start.max_total_tokens, np.int32)
            history[: len(start.prompt)] = start.prompt
            self._history[slot] = history
        if sampling.min_tokens and bans:
            self._early[slot] = np.array(start.stop_token_ids, np.int32)
        if start.bad_word_ids:
            self._bad_words[slot] = np.array([i for word in start.bad_word_ids for i in _as_ban(word)], np.int32)
        biases, allowed = sampling.logit_bias, sampling.allowed_token_ids
        column["only_biased"][slot] = allowed is not None
        if biases or allowed is not None:
            tokens = np.array(list(biases) if allowed is None else list(dict.fromkeys(allowed)), np.int32)
            self._biases[slot] = tokens, np.array([biases.get(i, 0.0) for i in tokens.tolist()], np.float32)
        if sampling.prompt_logprobs is not None:
            self._scored[slot] = np.array(start.prompt, np.int32), sampling.prompt_logprobs
        if sampling.structured_outputs is not None:
            if self._output_masks is None:
                raise InternalError("this table follows no forms")
            self._output_masks.start(start)

    def _check_usable(self, slots: np.ndarray) -> None:
        for slot in slots.tolist():
            if slot in self._unusable:
                raise InternalError(f"the request could not be started: {self._unusable[slot]}")

    def _histories(self, slots: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts int32[S + 1], tokens, and how many of each are prompt, int32[S]."""
        wanted = self._columns["has_history"].take(slots) if self._history else None
        if wanted is None or not np.count_nonzero(wanted):
            return np.zeros(len(slots) + 1, np.int32), _NO_TOKENS, np.zeros(len(slots), np.int32)
        history = self._history
        parts = [history[slot][:n] for slot, n in zip(slots[wanted].tolist(), lengths[wanted].tolist(), strict=True)]
        prompt_len = np.where(wanted, self._columns["prompt_len"].take(slots), np.int32(0))
        return _starts(np.where(wanted, lengths, 0)), np.concatenate(parts), prompt_len

    def _bans(self, slots: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Starts int32[S + 1] and tokens: those that would end a request before its min_tokens, and bad words."""
        if not self._early and not self._bad_words:
            return np.zeros(len(slots) + 1, np.int32), _NO_TOKENS
        column = self._columns
        early = lengths - column["prompt_len"].take(slots) < column["min_tokens"].take(slots)
        parts, none = [_NO_TOKENS], _NO_TOKENS
        for slot, is_early in zip(slots.tolist(), early.tolist(), strict=True):
            bad_words = self._bad_words.get(slot, none)
            parts.append(np.concatenate([self._early[slot], bad_words]) if is_early else bad_words)
        return _starts(np.array([len(part) for part in parts[1:]], np.int32)), np.concatenate(parts)

    def _biases_of(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Starts int32[S + 1], tokens, and what is added to their logits."""
        if not self._biases:
            return np.zeros(len(slots) + 1, np.int32), _NO_TOKENS, _NO_VALUES
        none = _NO_TOKENS, _NO_VALUES
        found = [none, *(self._biases.get(slot, none) for slot in slots.tolist())]
        starts = _starts(np.array([len(tokens) for tokens, _ in found[1:]], np.int32))
        return starts, np.concatenate([tokens for tokens, _ in found]), np.concatenate([values for _, values in found])


def _as_ban(word: tuple[int, ...]) -> list[int]:
    """A sequence as the sampler takes it: the last token is banned where the output ends in the others, written as ~id."""
    return [*(~token for token in word[:-1]), word[-1]]


def _starts(sizes: np.ndarray) -> np.ndarray:
    """Where lists of these sizes begin, one after the other, and the end of the last: int32[n + 1]."""
    starts = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=starts[1:])
    return starts
