"""Look-up of token embeddings."""

import torch

from fastserve._C import kernels


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
            not fit; nothing has been written then.
    """
    if out is None:
        out = torch.empty((ids.size(0), weight.size(1)), dtype=weight.dtype)
    kernels.embedding(out, ids, weight)
    return out
