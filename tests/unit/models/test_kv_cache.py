"""Size and layout of the KV pool."""

import pytest
import torch

from fastserve.errors import InvalidArgumentError
from fastserve.models.kv_cache import allocate_kv_cache, kv_block_bytes
from fastserve.models.registry import read_spec
from tests.checkpoints import tiny_checkpoint

CPU = torch.device("cpu")


def test_a_block_is_one_contiguous_piece_of_all_layers() -> None:
    spec = read_spec(tiny_checkpoint("llama"))
    cache = allocate_kv_cache(spec, 5, 16, torch.bfloat16, CPU)
    assert cache.shape == (5, 3, 2, 2, 16, 32)
    assert cache.is_contiguous()
    assert not cache.any()
    assert cache[0].nbytes == kv_block_bytes(spec, 16, torch.bfloat16) == 3 * 2 * 2 * 16 * 32 * 2


@pytest.mark.parametrize("num_blocks", [0, 2**50])
def test_a_pool_that_cannot_be_had_is_refused(num_blocks: int) -> None:
    spec = read_spec(tiny_checkpoint("llama"))
    with pytest.raises(InvalidArgumentError, match="blocks"):
        allocate_kv_cache(spec, num_blocks, 16, torch.float32, CPU)
