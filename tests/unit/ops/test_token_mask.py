"""Masks change the logits of the rows that have one, the same on every device."""

import numpy as np
import pytest
import torch

from fastserve.errors import InvalidArgumentError
from fastserve.ops.token_mask import ROWS_AT_ONCE, mask_logits, mask_on_device


@pytest.mark.parametrize("vocab_size", [31, 33, 64, 515])
def test_both_ways_to_mask_give_the_bits_of_the_mask(vocab_size: int) -> None:
    rng = np.random.default_rng(vocab_size)
    num_rows = 2 * ROWS_AT_ONCE + 3
    rows = sorted(rng.choice(num_rows, num_rows - 5, replace=False).tolist())
    masks = rng.integers(-(2**31), 2**31, (num_rows, -(-vocab_size // 32)), dtype=np.int32)
    before = torch.from_numpy(rng.standard_normal((num_rows, vocab_size + 3)).astype(np.float32))[:, :vocab_size]
    expected = before.clone()
    bits = np.unpackbits(masks.view(np.uint8), axis=1, bitorder="little")[:, :vocab_size]
    for row in rows:
        expected[row, torch.from_numpy(bits[row] == 0)] = -torch.inf
    for mask in (mask_logits, mask_on_device):
        logits = before.clone()
        mask(logits, masks, rows)
        assert torch.equal(logits, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [2]}, "rows must be between 0 and 1"),
        ({"rows": [-1]}, "rows must be between 0 and 1"),
        ({"masks": np.zeros((2, 1), np.int32)}, "masks must"),
        ({"masks": np.zeros((2, 2), np.int64)}, "masks must"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    fields = {"logits": torch.zeros((2, 33)), "masks": np.zeros((2, 2), np.int32), "rows": [0, 1]} | changes
    with pytest.raises(InvalidArgumentError, match=message):
        mask_logits(**fields)
