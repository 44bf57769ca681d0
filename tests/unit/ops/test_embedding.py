"""ops.embedding: rows of the table, bit for bit."""

import pytest
import torch

from fastserve import ops
from fastserve.errors import InvalidArgumentError
from tests.unit.ops.oracle import poisoned


@pytest.mark.parametrize("num_tokens", [0, 1, 3, 17, 1000])
@pytest.mark.parametrize("hidden", [1, 33, 768])
def test_embedding_copies_rows(device, dtype, num_tokens, hidden):
    weight = torch.randn(50, hidden).to(dtype)
    ids = torch.randint(0, 50, (num_tokens,), dtype=torch.int32)
    assert torch.equal(ops.embedding(ids, weight), weight[ids.long()])


@pytest.mark.parametrize(
    ("hidden", "place"),
    [
        *[(hidden, {}) for hidden in (13, 2049)],
        *[(hidden, {"gap": 16, "begin": 8}) for hidden in (8, 8192)],
        *[(768, {"gap": 5, "begin": 0}), (768, {"gap": 8, "begin": 3})],
    ],
    ids=str,
)
def test_embedding_reads_and_writes_nothing_beside_strided_rows(device, dtype, hidden, place):
    weight = poisoned(torch.randn(9, hidden).to(dtype), **place)
    out = poisoned(torch.zeros(4, hidden, dtype=dtype), **place)
    ids = torch.tensor([8, 0, 3, 8], dtype=torch.int32)
    assert ops.embedding(ids, weight.view, out=out.view) is out.view
    assert torch.equal(out.view, weight.view[ids.long()])
    out.assert_intact()


@pytest.mark.parametrize("bad", [-1, 50, 2**31 - 1])
def test_an_id_outside_the_vocabulary_is_named_and_nothing_is_written(bad):
    out = torch.full((3, 4), 7.0)
    ids = torch.tensor([1, 2, bad], dtype=torch.int32)
    with pytest.raises(InvalidArgumentError, match=rf"ids\[2\] must be between 0 and 49 .*, got {bad}"):
        ops.embedding(ids, torch.randn(50, 4), out=out)
    assert torch.all(out == 7.0)


@pytest.mark.gpu
@pytest.mark.parametrize("hidden", [33, 40])
def test_on_a_gpu_the_row_of_an_id_outside_the_vocabulary_is_nan(gpu, dtype, hidden):
    weight = torch.randn(50, hidden).to(dtype).to(gpu)
    out = ops.embedding(torch.tensor([1, -1, 50], dtype=torch.int32, device=gpu), weight)
    assert torch.equal(out[0], weight[1])
    assert out[1:].isnan().all()


def test_ids_must_be_int32():
    with pytest.raises(InvalidArgumentError, match="ids must be int32"):
        ops.embedding(torch.tensor([1]), torch.randn(5, 4))
