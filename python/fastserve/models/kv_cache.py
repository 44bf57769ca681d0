"""Size and allocation of the KV pool: [num_blocks, num_layers, 2 (K, V), num_kv_heads, block_size, head_dim]."""

import torch

from fastserve.errors import InvalidArgumentError
from fastserve.models.spec import DecoderSpec


def kv_block_shape(spec: DecoderSpec, block_size: int) -> tuple[int, int, int, int, int]:
    """Shape of one block: all layers of `block_size` tokens, one contiguous piece."""
    return (spec.num_layers, 2, spec.num_kv_heads, block_size, spec.head_dim)


def kv_block_bytes(spec: DecoderSpec, block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one block."""
    return torch.Size(kv_block_shape(spec, block_size)).numel() * dtype.itemsize


def allocate_kv_cache(
    spec: DecoderSpec, num_blocks: int, block_size: int, dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor:
    """Allocate the pool. It is zeroed: a kernel may read slots that no token has written, never what they held before.

    Raises:
        InvalidArgumentError: there are no blocks, or the memory for them cannot be had.
    """
    if num_blocks < 1:
        raise InvalidArgumentError(f"num_blocks must be at least 1, got {num_blocks}")
    try:
        return torch.zeros((num_blocks, *kv_block_shape(spec, block_size)), dtype=dtype, device=device)
    except RuntimeError as error:
        size_gib = num_blocks * kv_block_bytes(spec, block_size, dtype) / (1 << 30)
        raise InvalidArgumentError(
            f"cannot allocate {num_blocks} KV blocks ({size_gib:.1f} GiB) on {device}; ask for fewer"
        ) from error
