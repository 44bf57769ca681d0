"""Look-up of token embeddings."""

import torch

from fastserve._C import kernels
from fastserve.ops.stream import stream_of


def embedding(ids: torch.Tensor, weight: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return `weight[ids]`.

    Args:
        ids: int32 `[num_tokens]`.
        weight: `[vocab_size, hidden]`; rows may be strided.
        out: where to put the result; made when None.
    Returns:
        `[num_tokens, hidden]`.
    Raises:
        InvalidArgumentError: an id is outside the vocabulary (the message names it), or shapes, dtypes or layouts do
            not fit; nothing has been written then. On a GPU ids are not looked at: the row of one outside becomes NaN.
    """
    if out is None:
        out = weight.new_empty((ids.size(0), weight.size(1)))
    kernels.embedding(out, ids, weight, stream=stream_of(weight))
    return out
