"""The shapes of the attention benchmark for GPUs: every contender runs and computes as much as the others."""

import pytest
import torch

from bench.kernels.attention_gpu import Shape, contenders, flops, kv_bytes


@pytest.mark.parametrize(
    "shape",
    [Shape((4, 2, 64), [64] * 3, 1), Shape((4, 2, 64), [64] * 3, 64), Shape((4, 2, 64), [64] * 3, 20)],
    ids=["decode", "prefill", "chunk"],
)
def test_every_contender_gives_as_many_numbers(shape):
    sizes = {name: call().numel() for name, call in contenders(shape).items() if name != "flashinfer"}
    assert sizes.keys() == {"fastserve", "torch", "in order"} | ({"block 32"} if shape.num_queries == 1 else set())
    assert set(sizes.values()) == {3 * shape.num_queries * 256}


def test_only_rows_of_one_length_are_compared_with_torch():
    assert "torch" not in contenders(Shape((4, 4, 64), [64, 90], 1))


def test_operations_are_counted_for_visible_tokens_only():
    square = Shape((1, 1, 8), [100], 100)
    assert flops(square) == 4 * 8 * sum(range(1, 101))
    assert flops(Shape((1, 1, 8), [100], 40)) == 4 * 8 * sum(range(61, 101))
    assert kv_bytes(square) == 2 * 100 * 8 * torch.bfloat16.itemsize
