"""Log-probabilities of prompts: which tokens of a step are scored, where they are read, and what comes of them."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fastserve.logprobs import PromptLogprobs
from fastserve.ops.sampling import TokenLogprobs

PIECE_ROWS = 64  # logits of a prompt that exist at once: rows of the whole vocabulary


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """A row of a plan whose request wants the log-probabilities of its prompt.

    Attributes:
        row: of the plan.
        tokens: the places of the tokens within the plan whose logits tell how likely the next prompt token was.
        targets: int32, one per place: those next tokens.
        first: index in the prompt of the first target.
        num_top: how many likeliest tokens the request asks for.
    """

    row: int
    tokens: range
    targets: np.ndarray
    first: int
    num_top: int


class ScoredTokens:
    """The tokens of one step that are read for sampling or for prompts, in ascending order.

    Attributes:
        wanted: int64[U], places within the plan, each once.
        targets: int32[U]: the token to be scored there, -1 for none.
        num_top: the most that any row asks for.
    """

    def __init__(self, rows: list[ScoredRow], sampled: np.ndarray) -> None:
        """`sampled` int64[S], ascending: the places that are sampled, none of which is scored."""
        self._rows = rows
        places = np.concatenate([np.arange(row.tokens.start, row.tokens.stop) for row in rows])
        self.wanted = np.union1d(sampled, places).astype(np.int64)
        self.targets = np.full(len(self.wanted), -1, np.int32)
        self.targets[np.searchsorted(self.wanted, places)] = np.concatenate([row.targets for row in rows])
        self.num_top = max(row.num_top for row in rows)
        self._sampled_at: list[int] = np.searchsorted(self.wanted, sampled).tolist()

    def samples_in(self, first: int, end: int) -> list[tuple[int, int]]:
        """Of the wanted places [first, end): (sampling entry, place from `first` on) of those that are sampled."""
        return [(sample, at - first) for sample, at in enumerate(self._sampled_at) if first <= at < end]

    def results(self, pieces: list[TokenLogprobs]) -> Mapping[int, PromptLogprobs]:
        """What each row got, from the log-probabilities of all wanted places, on the host; they are copied."""
        whole = [np.concatenate([np.asarray(getattr(piece, name)) for piece in pieces]) for name in _ARRAYS]
        return {row.row: self._result(row, *whole) for row in self._rows}

    def _result(
        self, row: ScoredRow, logprobs: np.ndarray, ranks: np.ndarray, top_ids: np.ndarray, top_logprobs: np.ndarray
    ) -> PromptLogprobs:
        begin = int(np.searchsorted(self.wanted, row.tokens.start))
        places = slice(begin, begin + len(row.tokens))
        return PromptLogprobs(
            first=row.first,
            num_top=row.num_top,
            token_logprobs=logprobs[places].tobytes(),
            ranks=ranks[places].tobytes(),
            top_ids=top_ids[places, : row.num_top].tobytes(),
            top_logprobs=top_logprobs[places, : row.num_top].tobytes(),
        )


_ARRAYS = ("token_logprobs", "ranks", "top_ids", "top_logprobs")
