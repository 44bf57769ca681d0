"""ops.rope_kv_write against float64: norm, both pairings, partial rotation, the place in the KV cache."""

from dataclasses import dataclass

import pytest
import torch

from fastserve import ops
from fastserve.errors import InvalidArgumentError
from tests.unit.ops.oracle import assert_rounded

NUM_BLOCKS, NUM_LAYERS, BLOCK_SIZE, MAX_POSITION = 6, 3, 4, 50
LAYER = 1
UNTOUCHED = 9.0
# Two products and a sum of values of size up to 5, and with the norm its own few roundings of 6e-8 each.
FP32_ERROR = 6e-6


@dataclass
class Case:
    qkv: torch.Tensor
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    kv_cache: torch.Tensor

    def run(self, cos_sin, *, layer=LAYER, **options):
        ops.rope_kv_write(
            self.q, self.k, self.v, self.positions, cos_sin, self.kv_cache, self.slots, layer=layer, **options
        )


def make_case(dtype, num_tokens=5, q_heads=3, kv_heads=2, head_dim=20, gap=7):
    """q, k and v as views into one fused row per token, with `gap` elements of NaN behind it."""
    num_heads = q_heads + 2 * kv_heads
    qkv = torch.full((num_tokens, num_heads * head_dim + gap), float("nan"), dtype=dtype)
    qkv[:, : num_heads * head_dim] = torch.randn(num_tokens, num_heads * head_dim)
    heads = qkv[:, : num_heads * head_dim].unflatten(1, (num_heads, head_dim))
    q, k, v = heads.split([q_heads, kv_heads, kv_heads], dim=1)
    positions = torch.randint(0, MAX_POSITION, (num_tokens,), dtype=torch.int32)
    num_blocks = max(NUM_BLOCKS, num_tokens // BLOCK_SIZE + 1)
    slots = torch.randperm(num_blocks * BLOCK_SIZE)[:num_tokens]
    kv_cache = torch.full((num_blocks, NUM_LAYERS, 2, kv_heads, BLOCK_SIZE, head_dim), UNTOUCHED, dtype=dtype)
    return Case(qkv, q, k, v, positions, slots, kv_cache)


def make_table(rot_dim):
    angles = torch.arange(MAX_POSITION)[:, None] * 10000.0 ** (-torch.arange(rot_dim // 2) / max(rot_dim // 2, 1))
    return torch.cat([angles.cos(), angles.sin()], dim=1).float()


def rotated(x, positions, cos_sin, *, interleaved=False, norm=None, eps=0.0):
    """The truth in float64 for x [num_tokens, num_heads, head_dim]."""
    x = x.double().clone()
    if norm is not None:
        x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * norm.double()
    if cos_sin is None:
        return x
    rot_dim = cos_sin.shape[1]
    cos, sin = cos_sin[positions.long()].double()[:, None].chunk(2, dim=-1)
    first = slice(0, rot_dim, 2) if interleaved else slice(0, rot_dim // 2)
    second = slice(1, rot_dim, 2) if interleaved else slice(rot_dim // 2, rot_dim)
    a, b = x[..., first].clone(), x[..., second].clone()
    x[..., first] = a * cos - b * sin
    x[..., second] = b * cos + a * sin
    return x


def cached(kv_cache, slots):
    """K and V, each [num_tokens, num_kv_heads, head_dim], that the cache holds at `slots` of LAYER."""
    blocks, rows = slots // BLOCK_SIZE, slots % BLOCK_SIZE
    return kv_cache[blocks, LAYER, 0, :, rows], kv_cache[blocks, LAYER, 1, :, rows]


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "pairs"])
@pytest.mark.parametrize(("head_dim", "rot_dim"), [(64, 64), (80, 32), (20, 20), (34, 2), (7, 6), (16, None), (16, 0)])
@pytest.mark.parametrize("with_norm", [False, True], ids=["plain", "normed"])
def test_rope_kv_write_matches_float64(device, dtype, interleaved, head_dim, rot_dim, with_norm):
    check_against_float64(make_case(dtype, head_dim=head_dim), rot_dim, interleaved=interleaved, with_norm=with_norm)


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "pairs"])
@pytest.mark.parametrize(
    ("q_heads", "kv_heads", "head_dim", "rot_dim"),
    [(32, 8, 128, 128), (3, 2, 64, 64), (5, 1, 256, 256), (2, 2, 32, 32), (3, 2, 80, 80), (3, 2, 80, 32)],
)
@pytest.mark.parametrize("with_norm", [False, True], ids=["plain", "normed"])
def test_rows_that_begin_aligned_match_float64(
    device, dtype, interleaved, q_heads, kv_heads, head_dim, rot_dim, with_norm
):
    case = make_case(dtype, q_heads=q_heads, kv_heads=kv_heads, head_dim=head_dim, gap=8)
    check_against_float64(case, rot_dim, interleaved=interleaved, with_norm=with_norm)
    assert torch.all(case.qkv[:, -8:].isnan())


def check_against_float64(case, rot_dim, *, interleaved, with_norm):
    head_dim, dtype = case.q.shape[-1], case.q.dtype
    cos_sin = None if rot_dim is None else make_table(rot_dim)
    q_norm, k_norm = (torch.randn(2, head_dim).to(dtype)) if with_norm else (None, None)
    q, k, v = case.q.clone(), case.k.clone(), case.v.clone()
    case.run(cos_sin, interleaved=interleaved, q_norm=q_norm, k_norm=k_norm, norm_eps=1e-6)
    options = {"interleaved": interleaved, "eps": 1e-6}
    assert_rounded(case.q, rotated(q, case.positions, cos_sin, norm=q_norm, **options), error=FP32_ERROR)
    k_cached, v_cached = cached(case.kv_cache, case.slots)
    assert_rounded(k_cached, rotated(k, case.positions, cos_sin, norm=k_norm, **options), error=FP32_ERROR)
    assert torch.equal(v_cached, v)
    assert torch.equal(case.k, k)
    assert torch.equal(case.v, v)


def test_only_the_slots_of_the_layer_are_written(device, dtype):
    case = make_case(dtype)
    case.run(make_table(20))
    blocks, rows = case.slots // BLOCK_SIZE, case.slots % BLOCK_SIZE
    case.kv_cache[blocks, LAYER, :, :, rows] = UNTOUCHED
    assert torch.all(case.kv_cache == UNTOUCHED)
    assert torch.all(case.qkv[:, -7:].isnan())


def test_slot_minus_one_rotates_q_and_writes_no_cache(device, dtype):
    case, all_written = make_case(dtype), None
    reference = case.q.clone()
    case.slots[2] = -1
    case.run(make_table(20))
    assert_rounded(case.q, rotated(reference, case.positions, make_table(20)), error=FP32_ERROR)
    kept = case.slots[case.slots >= 0]
    all_written = (case.kv_cache[:, LAYER] != UNTOUCHED).any(-1).any(1).any(1).sum()
    assert all_written == len(kept)


@pytest.mark.gpu
@pytest.mark.parametrize(("head_dim", "gap"), [(128, 8), (128, 7), (80, 8)])
def test_on_a_gpu_places_out_of_range_give_nan_and_touch_nothing(gpu, dtype, head_dim, gap):
    with gpu:
        case, cos_sin = make_case(dtype, head_dim=head_dim, gap=gap), make_table(head_dim)
        q, k, v = case.q.clone(), case.k.clone(), case.v.clone()
        around = torch.full((NUM_BLOCKS + 4, *case.kv_cache.shape[1:]), UNTOUCHED, dtype=dtype)
    case.kv_cache = around[2:-2]
    num_slots = NUM_BLOCKS * BLOCK_SIZE
    case.positions.copy_(torch.tensor([3, MAX_POSITION, -1, 8, 2**31 - 1]))
    case.slots.copy_(torch.tensor([7, num_slots, -5, 0, 12]))
    case.run(cos_sin)
    assert case.q[[1, 2, 4]].isnan().all()
    known = [0, 3]
    expected = rotated(q[known], case.positions[known], cos_sin)
    assert_rounded(case.q[known], expected, error=FP32_ERROR)
    k_cached, v_cached = cached(case.kv_cache, case.slots[[0, 3, 4]])
    assert_rounded(k_cached[:2], rotated(k[known], case.positions[known], cos_sin), error=FP32_ERROR)
    assert k_cached[2].isnan().all()
    assert torch.equal(v_cached, v[[0, 3, 4]])
    assert torch.equal(case.k, k)
    blocks, rows = case.slots[[0, 3, 4]] // BLOCK_SIZE, case.slots[[0, 3, 4]] % BLOCK_SIZE
    case.kv_cache[blocks, LAYER, :, :, rows] = UNTOUCHED
    assert torch.all(around == UNTOUCHED)


@pytest.mark.parametrize("num_tokens", [0, 1, 3, 17, 129])
def test_every_number_of_tokens_works(device, num_tokens):
    case = make_case(torch.float32, num_tokens)
    q = case.q.clone()
    case.run(make_table(20))
    assert_rounded(case.q, rotated(q, case.positions, make_table(20)), error=FP32_ERROR)


def test_a_token_has_the_same_bits_in_every_batch(device, dtype, set_num_threads):
    cos_sin, norm = make_table(20), torch.randn(20).to(dtype)
    case = make_case(dtype, 300)
    start = case.qkv.clone()
    set_num_threads(3)
    case.run(cos_sin, q_norm=norm, k_norm=norm)
    together, cache = case.q.clone(), case.kv_cache.clone()
    case.qkv.copy_(start)
    case.kv_cache.fill_(UNTOUCHED)
    begin = 0
    for batch in [1, 2, 5, 16, 17, 259]:
        rows = slice(begin, begin + batch)
        part = Case(
            case.qkv, case.q[rows], case.k[rows], case.v[rows], case.positions[rows], case.slots[rows], case.kv_cache
        )
        part.run(cos_sin, q_norm=norm, k_norm=norm)
        begin += batch
    assert begin == 300
    assert torch.equal(case.q, together)
    assert torch.equal(case.kv_cache, cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": MAX_POSITION}, r"positions\[4\] must be between 0 and 49 .*, got 50"),
        ({"position": -1}, r"positions\[4\] must be .*, got -1"),
        ({"slot": NUM_BLOCKS * BLOCK_SIZE}, r"slots\[4\] must be between 0 and 23 .*, got 24"),
        ({"slot": -2}, r"slots\[4\] must be .*, got -2"),
        ({"layer": NUM_LAYERS}, "layer must be between 0 and 2, got 3"),
    ],
)
def test_a_place_out_of_range_is_named_and_nothing_is_written(change, message):
    case = make_case(torch.float32)
    before = case.q.clone()
    case.positions[4] = change.get("position", 0)
    case.slots[4] = change.get("slot", -1)
    with pytest.raises(InvalidArgumentError, match=message):
        case.run(make_table(20), layer=change.get("layer", LAYER))
    assert torch.equal(case.q, before)
    assert torch.all(case.kv_cache == UNTOUCHED)


def test_rope_kv_write_names_the_operand_that_does_not_fit():
    case = make_case(torch.float32)
    with pytest.raises(InvalidArgumentError, match="cos_sin must have an even number"):
        case.run(make_table(22))
    with pytest.raises(InvalidArgumentError, match="cos_sin must be float32"):
        case.run(make_table(20).half())
    with pytest.raises(InvalidArgumentError, match="q_norm must have shape"):
        case.run(make_table(20), q_norm=torch.ones(21))
    with pytest.raises(InvalidArgumentError, match="kv_cache must be contiguous"):
        ops.rope_kv_write(
            case.q, case.k, case.v, case.positions, None, case.kv_cache.transpose(0, 1), case.slots, layer=0
        )
    with pytest.raises(InvalidArgumentError, match="q must have dense heads"):
        ops.rope_kv_write(case.q[:, ::2], case.k, case.v, case.positions, None, case.kv_cache, case.slots, layer=0)
    with pytest.raises(InvalidArgumentError, match="slots must be int64"):
        ops.rope_kv_write(case.q, case.k, case.v, case.positions, None, case.kv_cache, case.slots.int(), layer=0)
