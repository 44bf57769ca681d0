"""Masks over the vocabulary, applied to logits."""

import numpy as np
import torch

from fastserve._C import kernels

ROWS_AT_ONCE = 32  # on a device: two bytes per logit of so many rows are in use


def mask_logits(logits: torch.Tensor, masks: np.ndarray, rows: list[int]) -> None:
    """Set the logits of tokens that may not come to -inf, in place.

    Args:
        logits: float32 [num_rows, vocab_size], rows may be strided.
        masks: int32 [num_rows, ceil(vocab_size / 32)] on the host, bit t % 32 of word t // 32 is 1 where
            token t may come.
        rows: those to mask, each once.
    Raises:
        InvalidArgumentError: a shape or dtype does not fit, or a row is out of range.
    """
    if logits.device.type == "cpu":
        kernels.mask_logits(logits, masks, np.array(rows, np.int32))
        return
    for first in range(0, len(rows), ROWS_AT_ONCE):
        mask_on_device(logits, masks, rows[first : first + ROWS_AT_ONCE])


def mask_on_device(logits: torch.Tensor, masks: np.ndarray, rows: list[int]) -> None:
    """As `mask_logits`, by operations of torch, on any device."""
    device = logits.device
    octets = torch.from_numpy(masks[rows].view(np.uint8)).to(device)
    powers = torch.tensor([1 << bit for bit in range(8)], dtype=torch.uint8, device=device)
    forbidden = (octets.unsqueeze(-1) & powers == 0).flatten(1)[:, : logits.shape[1]]
    index = torch.tensor(rows, device=device)
    logits.index_copy_(0, index, logits.index_select(0, index).masked_fill_(forbidden, -torch.inf))
