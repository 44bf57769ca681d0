"""ops.attention: truth against float64, and every row the same bit for bit whatever surrounds it."""

import numpy as np
import pytest
import torch

from fastserve import ops
from fastserve.errors import InvalidArgumentError
from tests.unit.ops.oracle import assert_rounded
from tests.unit.ops.paged import LAYER, attend_float64, batch_of, page, random_rows

HEAD_DIMS = [32, 40, 64, 80, 96, 128, 256]

# Scores are of size 1 with an error of about sqrt(head_dim) roundings of 6e-8, outputs are averages of values below 5.
FP32_ERROR = 1e-5


def attend(q, paged, num_queries, *, num_decode_rows=0, out=None):
    batch = batch_of(paged, num_queries, num_decode_rows=num_decode_rows)
    return ops.attention(q, paged.cache, batch, layer=LAYER, scale=q.shape[2] ** -0.5, out=out)


def check(q, paged, num_queries, *, num_decode_rows=0):
    result = attend(q, paged, num_queries, num_decode_rows=num_decode_rows)
    assert_rounded(result, attend_float64(q, paged, num_queries, scale=q.shape[2] ** -0.5), error=FP32_ERROR)
    return result


def bits(tensor):
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def assert_same_bits(a, b):
    assert torch.equal(bits(a), bits(b))


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("block_size", [8, 16, 32])
def test_decode_and_prefill_rows_in_one_batch_match_float64(isa, dtype, head_dim, block_size):
    seq_lens, num_queries = [1, 7, 64, 129, 300, 5, 77], [1, 1, 1, 1, 17, 5, 40]
    paged = random_rows(seq_lens, num_kv_heads=2, head_dim=head_dim, block_size=block_size, dtype=dtype)
    q = torch.randn(sum(num_queries), 6, head_dim).to(dtype)
    check(q, paged, num_queries, num_decode_rows=4)


@pytest.mark.parametrize(("num_q_heads", "num_kv_heads"), [(1, 1), (5, 5), (8, 4), (7, 1), (40, 1), (66, 2)])
def test_any_number_of_query_heads_per_kv_head(isa, num_q_heads, num_kv_heads):
    seq_lens, num_queries = [33, 70, 9, 90], [1, 1, 9, 50]
    paged = random_rows(seq_lens, num_kv_heads=num_kv_heads, head_dim=64, block_size=16)
    check(torch.randn(sum(num_queries), num_q_heads, 64), paged, num_queries, num_decode_rows=2)


def test_every_length_up_to_300_in_one_decode_batch(isa):
    seq_lens = list(range(1, 301))
    paged = random_rows(seq_lens, num_kv_heads=1, head_dim=32, block_size=8)
    check(torch.randn(300, 2, 32), paged, [1] * 300, num_decode_rows=300)


def test_every_length_up_to_300_as_a_prefill(isa):
    for length in [*range(1, 70), 127, 128, 129, 200, 255, 256, 257, 300]:
        paged = random_rows([length], num_kv_heads=1, head_dim=32, block_size=8)
        check(torch.randn(length, 3, 32), paged, [length])


def test_contexts_of_several_splits_match_float64(isa):
    seq_lens, num_queries = [1024, 1025, 2300, 1500], [1, 1, 1, 600]
    paged = random_rows(seq_lens, num_kv_heads=2, head_dim=64, block_size=32)
    check(torch.randn(sum(num_queries), 4, 64), paged, num_queries, num_decode_rows=3)


@pytest.mark.parametrize("head_dim", [40, 64, 128])
def test_chunked_prefill_gives_the_bits_of_one_shot(isa, dtype, head_dim):
    length = 150
    paged = random_rows([length], num_kv_heads=2, head_dim=head_dim, block_size=16, dtype=dtype)
    q = torch.randn(length, 6, head_dim).to(dtype)
    whole = attend(q, paged, [length])
    for chunk in (1, 3, 16, 64, 100):
        pieces = []
        for start in range(0, length, chunk):
            end = min(start + chunk, length)
            part = page(
                [paged.keys[0][:, :end]], [paged.values[0][:, :end]], block_size=(8, 16, 32)[(start // chunk) % 3]
            )
            pieces.append(attend(q[start:end], part, [end - start], num_decode_rows=int(end - start == 1)))
        assert_same_bits(torch.cat(pieces), whole)


def test_chunks_across_splits_give_the_bits_of_one_shot(isa):
    length = 2100
    paged = random_rows([length], num_kv_heads=1, head_dim=32, block_size=32)
    q = torch.randn(length, 2, 32)
    whole = attend(q, paged, [length])
    assert_same_bits(attend(q[1000:], paged, [1100]), whole[1000:])
    for end in (1023, 1024, 1025, 1026, 2048, 2049, 2100):
        part = page([paged.keys[0][:, :end]], [paged.values[0][:, :end]], block_size=32)
        assert_same_bits(attend(q[end - 1 : end], part, [1], num_decode_rows=1), whole[end - 1 : end])
        assert_same_bits(attend(q[end - 5 : end], part, [5]), whole[end - 5 : end])


@pytest.mark.parametrize("length", [1, 63, 64, 65, 130])
def test_a_token_has_the_same_bits_from_either_kernel_and_beside_any_rows(isa, dtype, length):
    paged = random_rows([length, 90, 200], num_kv_heads=2, head_dim=64, block_size=16, dtype=dtype)
    q = torch.randn(3, 4, 64).to(dtype)
    alone = page(paged.keys[:1], paged.values[:1], block_size=8)
    decoded = attend(q[:1], alone, [1], num_decode_rows=1)
    assert_same_bits(attend(q[:1], alone, [1]), decoded)
    assert_same_bits(attend(q, paged, [1, 1, 1], num_decode_rows=3)[:1], decoded)
    assert_same_bits(attend(q, paged, [1, 1, 1], num_decode_rows=1)[:1], decoded)


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(isa, set_num_threads, num_threads):
    seq_lens, num_queries = [3000, 40, 500], [1, 1, 130]
    paged = random_rows(seq_lens, num_kv_heads=2, head_dim=64, block_size=16)
    q = torch.randn(sum(num_queries), 4, 64)
    set_num_threads(1)
    expected = attend(q, paged, num_queries, num_decode_rows=2)
    set_num_threads(num_threads)
    assert_same_bits(attend(q, paged, num_queries, num_decode_rows=2), expected)
    # Few rows: the long one is cut into splits that threads share.
    assert_same_bits(
        attend(q[:1], page(paged.keys[:1], paged.values[:1], block_size=16), [1], num_decode_rows=1), expected[:1]
    )


def test_a_later_value_that_is_not_finite_leaves_earlier_tokens_alone(isa):
    length = 90
    paged = random_rows([length], num_kv_heads=1, head_dim=32, block_size=16)
    q = torch.randn(length, 2, 32)
    clean = attend(q, paged, [length])
    for bad in (torch.nan, torch.inf):
        keys, values = paged.keys[0].clone(), paged.values[0].clone()
        keys[:, 70:] = bad
        values[:, 70:] = bad
        spoilt = attend(q, page([keys], [values], block_size=16), [length])
        assert_same_bits(spoilt[:70], clean[:70])
        assert spoilt[70:].isnan().all()


def test_a_nan_key_is_not_hidden(isa):
    paged = random_rows([70], num_kv_heads=1, head_dim=32, block_size=16)
    keys = paged.keys[0].clone()
    keys[0, 20, 3] = torch.nan
    spoilt = page([keys], paged.values, block_size=16)
    assert attend(torch.randn(1, 2, 32), spoilt, [1], num_decode_rows=1).isnan().all()
    rows = attend(torch.randn(70, 2, 32), spoilt, [70])
    assert rows[20:].isnan().all()
    assert rows[:20].isfinite().all()


def test_scores_far_apart_neither_overflow_nor_vanish(isa):
    paged = random_rows([200], num_kv_heads=1, head_dim=32, block_size=16)
    q = torch.randn(200, 2, 32) * 200
    result = attend(q, paged, [200])
    expected = attend_float64(q, paged, [200], scale=32**-0.5)
    # A score of size 1000 has an error of 1e-4, which is the relative error of its weight.
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-3)


def test_a_strided_view_of_fused_qkv_and_a_strided_out(isa, dtype):
    num_queries = [1, 30]
    paged = random_rows([50, 30], num_kv_heads=2, head_dim=64, block_size=16, dtype=dtype)
    fused = torch.randn(31, (4 + 2 + 2) * 64).to(dtype)
    q = fused[:, : 4 * 64].view(31, 4, 64)
    dense = attend(q.contiguous(), paged, num_queries, num_decode_rows=1)
    assert_same_bits(attend(q, paged, num_queries, num_decode_rows=1), dense)
    wide = torch.full((31, 4, 96), 7.0).to(dtype)
    out = wide[:, :, 16:80]
    assert attend(q, paged, num_queries, num_decode_rows=1, out=out) is out
    assert_same_bits(out, dense)
    assert (wide[:, :, :16] == 7).all()
    assert (wide[:, :, 80:] == 7).all()


def test_empty_batches_and_rows_without_tokens(isa):
    empty = ops.AttentionBatch(*(np.zeros(n, dtype=np.int32) for n in (1, 0, 1, 0)), num_decode_rows=0)
    cache = torch.zeros(1, 1, 2, 2, 16, 64)
    assert ops.attention(torch.empty(0, 4, 64), cache, empty, layer=0, scale=1.0).shape == (0, 4, 64)
    paged = random_rows([20, 30, 40], num_kv_heads=2, head_dim=64, block_size=16)
    check(torch.randn(7, 4, 64), paged, [3, 0, 4])


def test_torch_index_arrays_and_spare_block_ids_are_taken():
    paged = random_rows([20, 30], num_kv_heads=2, head_dim=64, block_size=16)
    q = torch.randn(2, 4, 64)
    expected = attend(q, paged, [1, 1], num_decode_rows=2)
    roomy = ops.AttentionBatch(
        torch.tensor([0, 1, 2], dtype=torch.int32),
        torch.tensor([20, 30], dtype=torch.int32),
        torch.tensor([0, 4, 8], dtype=torch.int32),
        torch.tensor([*paged.block_ids[:2], -1, -1, *paged.block_ids[2:], 99, 99], dtype=torch.int32),
        num_decode_rows=2,
    )
    assert_same_bits(ops.attention(q, paged.cache, roomy, layer=LAYER, scale=64**-0.5), expected)


def broken(**changes):
    arrays = {
        "query_start": [0, 1, 3],
        "seq_lens": [20, 30],
        "block_start": [0, 2, 4],
        "block_ids": [0, 1, 2, 3],
    } | {name: value for name, value in changes.items() if name != "num_decode_rows"}
    indices = {name: np.array(value, dtype=np.int32) for name, value in arrays.items()}
    return ops.AttentionBatch(**indices, num_decode_rows=changes.get("num_decode_rows", 1))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (broken(block_ids=[0, 1, 2, 4]), "block ids of row 1"),
        (broken(block_ids=[-1, 1, 2, 3]), "block ids of row 0"),
        (broken(seq_lens=[20, 33]), "needs 3 blocks"),
        (broken(seq_lens=[20, 1]), "counts this step's tokens"),
        (broken(query_start=[0, 1, 4]), "must ascend within the 3 tokens"),
        (broken(query_start=[0, 2, 1]), "decode row must have one query token"),
        (broken(block_start=[0, 2, 5]), "within the 4 block_ids"),
        (broken(num_decode_rows=2), "decode row must have one query token"),
        (broken(num_decode_rows=3), "rows must lie in"),
        (broken(query_start=[0, 1]), "query_start must have shape"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch, message):
    cache = torch.zeros(4, 1, 2, 2, 16, 64)
    with pytest.raises(InvalidArgumentError, match=message):
        ops.attention(torch.zeros(3, 4, 64), cache, batch, layer=0, scale=1.0)


@pytest.mark.parametrize(
    ("q_shape", "cache_shape", "layer", "message"),
    [
        ((3, 4, 64), (4, 1, 2, 3, 16, 64), 0, "multiple of the number of KV heads"),
        ((3, 4, 64), (4, 1, 2, 2, 12, 64), 0, "block_size"),
        ((3, 4, 36), (4, 1, 2, 2, 16, 36), 0, "head_dim"),
        ((3, 4, 64), (4, 1, 2, 2, 16, 32), 0, "head_dim of q"),
        ((3, 4, 64), (4, 1, 2, 2, 16, 64), 1, "layer"),
        ((3, 4, 64), (4, 1, 3, 2, 16, 64), 0, "K and V"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(q_shape, cache_shape, layer, message):
    with pytest.raises(InvalidArgumentError, match=message):
        ops.attention(torch.zeros(q_shape), torch.zeros(cache_shape), broken(), layer=layer, scale=1.0)


def test_mixed_dtypes_and_non_contiguous_caches_are_refused():
    with pytest.raises(InvalidArgumentError, match="kv_cache must be float32"):
        ops.attention(torch.zeros(3, 4, 64), torch.zeros(4, 1, 2, 2, 16, 64).half(), broken(), layer=0, scale=1.0)
    with pytest.raises(InvalidArgumentError, match="contiguous"):
        ops.attention(
            torch.zeros(3, 4, 64), torch.zeros(4, 1, 2, 16, 2, 64).transpose(3, 4), broken(), layer=0, scale=1.0
        )
