"""Choose the next token of every request from its logits, and read log-probabilities."""

from dataclasses import dataclass

import numpy as np
import torch

from fastserve._C import kernels
from fastserve.ops.stream import stream_of


@dataclass(frozen=True, slots=True)
class SamplingBatch:
    """How to sample each row; every array has one entry per row unless it says otherwise.

    Lists of tokens are ragged: row r has `tokens[start[r]:start[r + 1]]`, and none where it needs none.

    Attributes:
        temperature: float32, 0 or more; below 1e-5 is greedy.
        top_k: int32; keep the k likeliest tokens, 0 or less is off.
        top_p: float32 in 0..1; keep the likeliest tokens that hold this probability together, 1 is off.
        min_p: float32 in 0..1; keep tokens at least this likely relative to the likeliest, 0 is off.
        repetition_penalty: float32, positive; divides positive logits of tokens in prompt or output, multiplies
            negative ones, 1 is off.
        presence_penalty: float32; taken from the logits of tokens in the output, 0 is off.
        frequency_penalty: float32; taken from them once per occurrence, 0 is off.
        seeds: uint64 (int64 with the same bits will do).
        counters: int64; position of the token to draw. The number drawn depends on (seed, counter) alone, so a request
            that is preempted, resumed or batched with others samples the same tokens.
        history_start: int32 `[num_rows + 1]`.
        history_tokens: int32; prompt, then output so far, for rows with penalties.
        history_prompt_len: int32; how many of the row's history tokens are prompt.
        banned_start: int32 `[num_rows + 1]`.
        banned_tokens: int32; never sampled.
    """

    temperature: np.ndarray
    top_k: np.ndarray
    top_p: np.ndarray
    min_p: np.ndarray
    repetition_penalty: np.ndarray
    presence_penalty: np.ndarray
    frequency_penalty: np.ndarray
    seeds: np.ndarray
    counters: np.ndarray
    history_start: np.ndarray
    history_tokens: np.ndarray
    history_prompt_len: np.ndarray
    banned_start: np.ndarray
    banned_tokens: np.ndarray


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-softmax of the raw logits, natural logarithm.

    Attributes:
        token_logprobs: float32 `[num_rows]`; of the given tokens.
        ranks: int32 `[num_rows]`; 1 for the largest logit, equal logits share the best rank, 0 for no token (-1).
        top_ids: int32 `[num_rows, num_top]`; the likeliest tokens in order, the lower id first where equal, -1 where
            fewer logits are finite.
        top_logprobs: float32 `[num_rows, num_top]`; -inf where the id is -1.
    """

    token_logprobs: np.ndarray
    ranks: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray


def sample(logits: torch.Tensor | np.ndarray, batch: SamplingBatch) -> np.ndarray:
    """Choose a token per row: penalties, bans, temperature, top_k, top_p, min_p, draw, in this order.

    Tokens with equal logits are ordered by id, so greedy takes the lowest id and each filter keeps an exact set. A
    logit that is not finite is never sampled. `logits` are not changed.

    Args:
        logits: float32 `[num_rows, vocab_size]`, rows may be strided.
        batch: the settings.
    Returns:
        int32 `[num_rows]`; -1 where no logit is finite.
    Raises:
        InvalidArgumentError: a shape, dtype or value does not fit.
    """
    out = np.empty(logits.shape[0], dtype=np.int32)
    kernels.sample(
        logits,
        batch.temperature,
        batch.top_k,
        batch.top_p,
        batch.min_p,
        batch.repetition_penalty,
        batch.presence_penalty,
        batch.frequency_penalty,
        batch.seeds.view(np.int64),
        batch.counters,
        batch.history_start,
        batch.history_tokens,
        batch.history_prompt_len,
        batch.banned_start,
        batch.banned_tokens,
        out,
        stream=stream_of(logits),
    )
    return out


def token_logprobs(logits: torch.Tensor | np.ndarray, tokens: np.ndarray, num_top: int) -> TokenLogprobs:
    """Read the log-probability of one token per row, its rank, and the `num_top` likeliest tokens.

    Args:
        logits: float32 `[num_rows, vocab_size]`, rows may be strided; not changed.
        tokens: int32 `[num_rows]`; -1 (no token) gets -inf and rank 0.
        num_top: how many of the likeliest tokens to list; 0 or more.
    Raises:
        InvalidArgumentError: a shape or dtype does not fit.
    """
    num_rows = logits.shape[0]
    result = TokenLogprobs(
        token_logprobs=np.empty(num_rows, dtype=np.float32),
        ranks=np.empty(num_rows, dtype=np.int32),
        top_ids=np.empty((num_rows, num_top), dtype=np.int32),
        top_logprobs=np.empty((num_rows, num_top), dtype=np.float32),
    )
    kernels.token_logprobs(
        logits,
        tokens,
        result.token_logprobs,
        result.ranks,
        result.top_ids,
        result.top_logprobs,
        stream=stream_of(logits),
    )
    return result
