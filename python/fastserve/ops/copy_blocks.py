"""Copy KV blocks, and fingerprint them to notice copies that went wrong."""

import numpy as np
import torch

from fastserve._C import kernels
from fastserve.ops.stream import stream_of


def copy_blocks(
    src: torch.Tensor, dst: torch.Tensor, src_ids: np.ndarray, dst_ids: np.ndarray, *, stream: int = 0
) -> None:
    """Copy block `src_ids[i]` of src to block `dst_ids[i]` of dst.

    Args:
        src: `[num_blocks, ...]`, contiguous.
        dst: on the device of src with blocks of the same dtype and size; may be src itself.
        src_ids: int32 `[num_copies]` on the CPU.
        dst_ids: int32 `[num_copies]` on the CPU; each block at most once.
        stream: for tensors on the GPU, the CUDA stream to queue the copy on; the call does not wait for it.
    Raises:
        InvalidArgumentError: tensors or ids do not fit, src and dst overlap, or a block would be both read and written.
        DeviceError: the launch on the GPU failed.
    """
    kernels.copy_blocks(src, dst, src_ids, dst_ids, stream=stream)


def checksum_blocks(
    cache: torch.Tensor, ids: np.ndarray, *, out: np.ndarray | torch.Tensor | None = None
) -> np.ndarray | torch.Tensor:
    """Return a 64-bit hash of the bytes of each block, the same on every machine; not for use against an adversary.

    Args:
        cache: `[num_blocks, ...]`, contiguous.
        ids: int32 `[n]` on the CPU.
        out: int64 `[n]` where the cache is, or with a cache on a GPU in pinned memory; made when None.
    Returns:
        int64 `[n]`, the bits of the unsigned hashes. On the CPU an array of numpy, on a GPU a tensor.
    Raises:
        InvalidArgumentError: the cache or an id does not fit.
        DeviceError: the launch on the GPU failed.
    """
    if out is None:
        out = cache.new_empty(len(ids), dtype=torch.int64) if cache.is_cuda else np.empty(len(ids), dtype=np.int64)
    kernels.checksum_blocks(cache, ids, out, stream=stream_of(cache))
    return out
