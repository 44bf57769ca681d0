"""Changes of requests that the engine sends to a worker with its plans. Needs no torch, so that the simulator runs without it."""

from dataclasses import dataclass

import numpy as np

from fastserve.types import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStart:
    """A request that joined the engine: all that sampling for it needs, once.

    Attributes:
        slot: its entry of the worker's request table, which rows of plans name.
        prompt: int32 token ids.
        max_total_tokens: most tokens of prompt and output together.
        sampling: its settings.
        seed: of its random numbers, 64 bits.
        stop_token_ids: tokens that may end it, the model's own among them; none is sampled before `sampling.min_tokens`.
        bad_word_ids: sequences of tokens that its output must not contain.
    """

    slot: int
    prompt: np.ndarray
    max_total_tokens: int
    sampling: SamplingParams
    seed: int
    stop_token_ids: tuple[int, ...] = ()
    bad_word_ids: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class RequestChanges:
    """Changes of the request table since the previous plan: first `ended` slots are freed, then `started` ones written.

    `is_first` of an engine core: all slots are freed before, those of an earlier core on the same workers.
    """

    started: tuple[RequestStart, ...] = ()
    ended: tuple[int, ...] = ()
    is_first: bool = False


NO_CHANGES = RequestChanges()
