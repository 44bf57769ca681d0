"""Choose the next token of every request from its logits, and read log-probabilities."""

from dataclasses import dataclass

import numpy as np
import torch

from fastserve._C import kernels
from fastserve.ops.stream import stream_of

Array = np.ndarray | torch.Tensor
"""On the CPU anything dense; for logits on a GPU a tensor on that GPU or one in pinned memory."""

SETTINGS = {
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "min_p": np.float32,
    "repetition_penalty": np.float32,
    "presence_penalty": np.float32,
    "frequency_penalty": np.float32,
}
"""Settings of a request that are one number, named as in `SamplingParams`, `SamplingBatch`: name -> type, in the core's order."""


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
        seeds: uint64 (int64 with the same bits will do; int64 in a tensor).
        counters: int64; position of the token to draw. The number drawn depends on (seed, counter) alone, so a request
            that is preempted, resumed or batched with others samples the same tokens.
        history_start: int32 `[num_rows + 1]`.
        history_tokens: int32; prompt, then output so far, for rows with penalties or banned sequences.
        history_prompt_len: int32; how many of the row's history tokens are prompt.
        banned_start: int32 `[num_rows + 1]`.
        banned_tokens: int32; never sampled. Entries `~id` before a token: it is banned only where the output ends in these.
        bias_start: int32 `[num_rows + 1]`.
        bias_tokens: int32, each token of a row once.
        bias_values: float32, one per bias token; added to its logit.
        only_biased: int32; not 0 = of a row that has bias tokens, no others are sampled.
    """

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    repetition_penalty: Array
    presence_penalty: Array
    frequency_penalty: Array
    seeds: Array
    counters: Array
    history_start: Array
    history_tokens: Array
    history_prompt_len: Array
    banned_start: Array
    banned_tokens: Array
    bias_start: Array
    bias_tokens: Array
    bias_values: Array
    only_biased: Array

    @property
    def has_lists(self) -> bool:
        """Whether any row has history, banned or bias tokens."""
        return len(self.history_tokens) + len(self.banned_tokens) + len(self.bias_tokens) > 0


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

    token_logprobs: Array
    ranks: Array
    top_ids: Array
    top_logprobs: Array


def sampling_workspace_bytes(num_rows: int, vocab_size: int, *, changes_logits: bool) -> int:
    """Bytes of GPU memory that `sample` and `token_logprobs` need; `changes_logits` with any list of tokens."""
    return kernels.sampling_workspace_bytes(num_rows, vocab_size, changes_logits)


def sample(
    logits: torch.Tensor | np.ndarray,
    batch: SamplingBatch,
    *,
    out: Array | None = None,
    workspace: torch.Tensor | None = None,
) -> Array:
    """Choose a token per row: biases, penalties, bans, temperature, top_k, top_p, min_p, draw, in this order.

    Tokens with equal logits are ordered by id, so greedy takes the lowest id and each filter keeps an exact set. A
    logit that is not finite is never sampled. `logits` are not changed.

    Args:
        logits: float32 `[num_rows, vocab_size]`, rows may be strided.
        batch: the settings.
        out: int32 `[num_rows]`; made when None. With logits on a GPU it may be pinned memory, to be read on the host
            once an event recorded after this call is reached.
        workspace: on a GPU, uint8 of at least `sampling_workspace_bytes`; made when None. Contents need not be kept.
    Returns:
        int32 `[num_rows]`; where a row cannot be sampled, which the others do not notice, one of the negative numbers
        above. Banned and bias tokens outside the vocabulary have no effect, nor have those of a history on a GPU. On the CPU an
        array of numpy, on a GPU a tensor.
    Raises:
        InvalidArgumentError: a shape or dtype does not fit.
    """
    if isinstance(logits, torch.Tensor) and logits.is_cuda:
        workspace = workspace if workspace is not None else _workspace(logits, changes_logits=batch.has_lists)
        out = out if out is not None else logits.new_empty(len(logits), dtype=torch.int32)
    elif out is None:
        out = np.empty(logits.shape[0], dtype=np.int32)
    kernels.sample(
        logits,
        [getattr(batch, name) for name in SETTINGS],
        batch.seeds if isinstance(batch.seeds, torch.Tensor) else batch.seeds.view(np.int64),
        batch.counters,
        batch.history_start,
        batch.history_tokens,
        batch.history_prompt_len,
        batch.banned_start,
        batch.banned_tokens,
        batch.bias_start,
        batch.bias_tokens,
        batch.bias_values,
        batch.only_biased,
        out,
        workspace=workspace,
        stream=stream_of(logits),
    )
    return out


def token_logprobs(
    logits: torch.Tensor | np.ndarray,
    tokens: Array,
    num_top: int,
    *,
    out: TokenLogprobs | None = None,
    workspace: torch.Tensor | None = None,
) -> TokenLogprobs:
    """Read the log-probability of one token per row, its rank, and the `num_top` likeliest tokens.

    Args:
        logits: float32 `[num_rows, vocab_size]`, rows may be strided; not changed.
        tokens: int32 `[num_rows]`; -1 (no token) gets -inf and rank 0.
        num_top: how many of the likeliest tokens to list; 0 or more, on a GPU up to 2048.
        out: where to put the result; made when None, where the logits are. With logits on a GPU it may be pinned memory.
        workspace: as for `sample`.
    Raises:
        InvalidArgumentError: a shape or dtype does not fit.
    """
    if isinstance(logits, torch.Tensor) and logits.is_cuda:
        workspace = workspace if workspace is not None else _workspace(logits, changes_logits=False)
    result = out if out is not None else _empty_logprobs(logits, num_top)
    kernels.token_logprobs(
        logits,
        tokens,
        result.token_logprobs,
        result.ranks,
        result.top_ids,
        result.top_logprobs,
        workspace=workspace,
        stream=stream_of(logits),
    )
    return result


def _workspace(logits: torch.Tensor, *, changes_logits: bool) -> torch.Tensor:
    size = sampling_workspace_bytes(*logits.shape, changes_logits=changes_logits)
    return logits.new_empty(size, dtype=torch.uint8)


def _empty_logprobs(logits: torch.Tensor | np.ndarray, num_top: int) -> TokenLogprobs:
    num_rows = logits.shape[0]
    on_gpu = isinstance(logits, torch.Tensor) and logits.is_cuda

    def empty(shape: tuple[int, ...], dtype: str) -> Array:
        if on_gpu:
            return torch.empty(shape, dtype=getattr(torch, dtype), device=logits.device)
        return np.empty(shape, dtype=dtype)

    return TokenLogprobs(
        token_logprobs=empty((num_rows,), "float32"),
        ranks=empty((num_rows,), "int32"),
        top_ids=empty((num_rows, num_top), "int32"),
        top_logprobs=empty((num_rows, num_top), "float32"),
    )
