"""ops.linear against float64, and the promise that everything else builds on: a row has the same bits in every batch."""

import pytest
import torch

from fastserve import ops
from fastserve.errors import InvalidArgumentError
from tests.unit.ops.oracle import assert_rounded, poisoned


def fp32_error(x, weight, bias=None):
    """Bound of a sum of K products in any order: K times 2^-24 of the sum of their sizes (Higham, 2002, section 3.1)."""
    sizes = x.double().abs() @ weight.double().abs().T
    if bias is not None:
        sizes = sizes + bias.double().abs()
    return (x.shape[1] + 1) * 2.0**-24 * sizes


def truth(x, weight, bias=None):
    product = x.double() @ weight.double().T
    return product if bias is None else product + bias.double()


@pytest.mark.parametrize("num_tokens", [0, 1, 3, 17, 129])
@pytest.mark.parametrize(("out_features", "in_features"), [(1, 33), (31, 7), (97, 769), (160, 1537), (32, 0)])
def test_linear_matches_float64(isa, dtype, num_tokens, out_features, in_features):
    x = torch.randn(num_tokens, in_features).to(dtype)
    weight = torch.randn(out_features, in_features).to(dtype)
    bias = torch.randn(out_features).to(dtype)
    packed = ops.pack_weight(weight)
    assert_rounded(ops.linear(x, packed), truth(x, weight), error=fp32_error(x, weight))
    assert_rounded(ops.linear(x, packed, bias), truth(x, weight, bias), error=fp32_error(x, weight, bias))


def test_linear_matches_float64_for_the_shape_of_a_model(isa, dtype):
    x = torch.randn(129, 768).to(dtype)
    weight = torch.randn(1280, 768).to(dtype)
    assert_rounded(ops.linear(x, ops.pack_weight(weight)), truth(x, weight), error=fp32_error(x, weight))


@pytest.mark.parametrize(("out_features", "in_features"), [(97, 769), (160, 96), (576, 1600)])
def test_a_row_has_the_same_bits_in_every_batch(isa, dtype, out_features, in_features):
    x = torch.randn(300, in_features).to(dtype)
    packed = ops.pack_weight(torch.randn(out_features, in_features).to(dtype))
    bias = torch.randn(out_features).to(dtype)
    together = ops.linear(x, packed, bias)
    for batch in [1, 2, 5, 12, 13, 16, 17, 49, 299]:
        for first in [0, 100, 300 - batch] if batch > 17 else range(0, 300 - batch, 23):
            first = min(first, 300 - batch)  # noqa: PLW2901
            part = ops.linear(x[first : first + batch], packed, bias)
            assert torch.equal(part, together[first : first + batch]), f"rows {first}..{first + batch}"


def test_a_row_has_the_same_bits_with_any_number_of_threads(isa, dtype, set_num_threads):
    x = torch.randn(61, 769).to(dtype)
    packed = ops.pack_weight(torch.randn(500, 769).to(dtype))
    set_num_threads(1)
    alone = ops.linear(x, packed)
    for num_threads in [2, 3, 5]:
        set_num_threads(num_threads)
        assert torch.equal(ops.linear(x, packed), alone)


def test_a_column_does_not_depend_on_its_place_in_a_panel(isa, dtype):
    x = torch.randn(13, 300).to(dtype)
    weight = torch.randn(70, 300).to(dtype)
    whole = ops.linear(x, ops.pack_weight(weight))
    shifted = ops.linear(x, ops.pack_weight(weight[9:]))
    assert torch.equal(whole[:, 9:], shifted)


@pytest.mark.parametrize("num_tokens", [1, 17, 60])
def test_linear_reads_and_writes_nothing_beside_strided_rows(isa, dtype, num_tokens):
    x = poisoned(torch.randn(num_tokens, 45).to(dtype))
    out = poisoned(torch.zeros(num_tokens, 75, dtype=dtype))
    weight = poisoned(torch.randn(75, 45).to(dtype))
    bias = poisoned(torch.randn(1, 75).to(dtype))
    packed = ops.pack_weight(weight.view)
    assert ops.linear(x.view, packed, bias.view[0], out=out.view) is out.view
    out.assert_intact()
    expected = ops.linear(x.view.contiguous(), ops.pack_weight(weight.view.contiguous()), bias.view[0].contiguous())
    assert torch.equal(out.view, expected)
    assert not expected.isnan().any()


def test_logits_in_float32_are_not_rounded_to_the_model_dtype(isa, dtype):
    x = torch.randn(3, 64).to(dtype)
    weight = torch.randn(40, 64).to(dtype)
    packed = ops.pack_weight(weight)
    logits = ops.linear(x, packed, out_dtype=torch.float32)
    assert logits.dtype == torch.float32
    assert_rounded(logits, truth(x, weight), error=fp32_error(x, weight))
    assert torch.equal(logits.to(dtype), ops.linear(x, packed))


def test_pack_weight_pads_the_last_panel_with_zeros(dtype):
    weight = torch.randn(37, 5).to(dtype)
    packed = ops.pack_weight(weight)
    assert (packed.out_features, packed.in_features, packed.dtype) == (37, 5, dtype)
    panels = packed.data.transpose(1, 2)
    if dtype == torch.bfloat16:  # pairs of inputs lie beside each other
        panels = packed.data.view(2, 16, 32, 2).transpose(1, 2)
    panels = panels.reshape(64, -1)
    assert torch.equal(panels[:37, :5], weight)
    assert torch.all(panels[37:] == 0)
    assert torch.all(panels[:, 5:] == 0)


def test_infinite_and_nan_inputs_stay_in_their_row(isa, dtype):
    x = torch.randn(5, 40).to(dtype)
    weight = torch.randn(33, 40).to(dtype)
    packed = ops.pack_weight(weight)
    clean = ops.linear(x, packed)
    x[1, 3] = float("nan")
    x[3, 39] = float("inf")
    result = ops.linear(x, packed)
    assert torch.all(result[1].isnan())
    assert torch.all(result[3].isinf())
    assert torch.equal(result[[0, 2, 4]], clean[[0, 2, 4]])


def test_linear_names_the_operand_that_does_not_fit():
    packed = ops.pack_weight(torch.randn(40, 64))
    with pytest.raises(InvalidArgumentError, match="x must have shape"):
        ops.linear(torch.randn(2, 63), packed)
    with pytest.raises(ValueError, match="x must be float32"):
        ops.linear(torch.randn(2, 64).half(), packed)
    with pytest.raises(InvalidArgumentError, match="x must be dense"):
        ops.linear(torch.randn(64, 2).T, packed)
    with pytest.raises(InvalidArgumentError, match="bias must have shape"):
        ops.linear(torch.randn(2, 64), packed, torch.randn(41))
    with pytest.raises(InvalidArgumentError, match="out must have one row"):
        ops.linear(torch.randn(2, 64), packed, out=torch.empty(3, 40))
    with pytest.raises(InvalidArgumentError, match="out must be float32"):
        ops.linear(torch.randn(2, 64), packed, out_dtype=torch.float16)
    with pytest.raises(InvalidArgumentError, match="packed must be float32, bfloat16 or float16"):
        ops.pack_weight(torch.zeros(4, 4, dtype=torch.int32))


@pytest.mark.parametrize("in_features", [256, 1024, 11264])
@pytest.mark.parametrize("num_tokens", [1, 40])
def test_the_sum_of_products_over_shares_of_the_inputs_has_the_bits_of_the_whole(isa, dtype, num_tokens, in_features):
    x = torch.randn(num_tokens, in_features).to(dtype)
    weight = torch.randn(70, in_features).to(dtype)
    whole = ops.linear(x, ops.pack_weight(weight), out_dtype=torch.float32, num_segments=8)
    assert_rounded(whole, truth(x, weight), error=fp32_error(x, weight))
    for shares in [2, 4, 8]:
        parts = [
            ops.linear(a, ops.pack_weight(b), out_dtype=torch.float32, num_segments=8 // shares)
            for a, b in zip(x.chunk(shares, dim=1), weight.chunk(shares, dim=1), strict=True)
        ]
        while len(parts) > 1:
            parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
        assert torch.equal(parts[0], whole), shares


def test_other_numbers_of_segments_are_refused():
    packed = ops.pack_weight(torch.randn(4, 64))
    with pytest.raises(InvalidArgumentError, match="num_segments must be 1, 2, 4 or 8, got 3"):
        ops.linear(torch.randn(1, 64), packed, num_segments=3)
