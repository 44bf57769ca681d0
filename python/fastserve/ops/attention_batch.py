"""The inputs of attention for one step, and the kernels that can compute it."""

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import torch

IndexArray = np.ndarray | torch.Tensor
"""One-dimensional int32 array on the device of the KV cache."""


class AttentionBackend(StrEnum):
    """Who computes attention.

    native: our best kernels; on a GPU those for tensor cores where they take the shape, else the naive one.
    mma: as native, but prefill on a Hopper GPU uses the kernel of other GPUs; GPU only.
    naive: our plainest kernel, for comparison; GPU only.
    torch: gathered pages and `scaled_dot_product_attention`; any device, slow, and copies the lengths to the host.
    """

    NATIVE = "native"
    MMA = "mma"
    NAIVE = "naive"
    TORCH = "torch"


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Which tokens of a step belong to which request, and where its KV lies. A row is a request.

    The last three attributes matter on a GPU. There the arrays are int32 CUDA tensors whose values the host does not see:
    only the CPU checks them. Everything that a launch depends on besides them is fixed by shapes and `max_seq_len`, so a
    captured launch may be replayed after the arrays were overwritten in place; rows that are not needed get length 0.

    Attributes:
        query_start: int32 `[num_rows + 1]`; row r has the tokens `query_start[r]` up to `query_start[r + 1]`.
        seq_lens: int32 `[num_rows]`; KV tokens of the row, those of this step included.
        block_start: int32 `[num_rows + 1]`; row r has the blocks `block_ids[block_start[r]:block_start[r + 1]]`.
        block_ids: int32; indices into dimension 0 of the KV cache, in the order of the tokens.
        num_decode_rows: the first so many rows have exactly one token.
        max_seq_len: no row is longer; longer ones are cut.
        workspace: of `attention_workspace`, for at least num_decode_rows rows; needed by native and mma.
        backend: who computes it.
    """

    query_start: IndexArray
    seq_lens: IndexArray
    block_start: IndexArray
    block_ids: IndexArray
    num_decode_rows: int
    max_seq_len: int = 0
    workspace: torch.Tensor | None = None
    backend: AttentionBackend = AttentionBackend.NATIVE

    @property
    def num_rows(self) -> int:
        """Requests in the step."""
        return len(self.seq_lens)


def on_device(batch: AttentionBatch, device: torch.device | str) -> AttentionBatch:
    """Return the batch with its arrays copied to `device` as int32 tensors; the rest stays as it is."""

    def moved(array: IndexArray) -> torch.Tensor:
        return torch.as_tensor(array).to(device=device, dtype=torch.int32)

    return replace(
        batch,
        query_start=moved(batch.query_start),
        seq_lens=moved(batch.seq_lens),
        block_start=moved(batch.block_start),
        block_ids=moved(batch.block_ids),
    )
