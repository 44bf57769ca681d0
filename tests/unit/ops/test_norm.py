"""ops.rms_norm and ops.layer_norm against float64, with and without the residual."""

from itertools import product

import pytest
import torch

from fastserve import ops
from fastserve.errors import InvalidArgumentError
from tests.unit.ops.oracle import assert_rounded, poisoned

EPS = 1e-5
NORMS = ["rms", "layer"]


def run(norm, x, weight, bias, **options):
    if norm == "rms":
        return ops.rms_norm(x, weight, eps=EPS, **options)
    return ops.layer_norm(x, weight, bias, eps=EPS, **options)


def truth(norm, h, weight, bias):
    h, weight, bias = h.double(), weight.double(), bias.double()
    if norm == "rms":
        return h / (h.square().mean(1, keepdim=True) + EPS).sqrt() * weight
    centred = h - h.mean(1, keepdim=True)
    return centred / (centred.square().mean(1, keepdim=True) + EPS).sqrt() * weight + bias


# Values are of size 1 and so are weights: a few roundings of 6e-8 each, and a mean over H with an error far below
# H * 6e-8 because the sum runs in 16 to 64 partial sums.
FP32_ERROR = 4e-6


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("num_tokens", "hidden"),
    [*product([0, 1, 3, 17, 129], [1, 33, 70, 768]), (2, 4096), (1, 8192), (1, 40_000)],
)
def test_norm_matches_float64(device, dtype, norm, num_tokens, hidden):
    x, residual = torch.randn(2, num_tokens, hidden).to(dtype)
    weight, bias = torch.randn(2, hidden).to(dtype)
    assert_rounded(run(norm, x, weight, bias), truth(norm, x, weight, bias), error=FP32_ERROR)
    expected_sum = (x.float() + residual.float()).to(dtype)
    result = run(norm, x, weight, bias, residual=residual)
    assert torch.equal(residual, expected_sum)
    assert_rounded(result, truth(norm, expected_sum, weight, bias), error=FP32_ERROR)


@pytest.mark.parametrize("norm", NORMS)
def test_a_row_has_the_same_bits_in_every_batch(device, dtype, norm, set_num_threads):
    x, residual = torch.randn(2, 300, 769).to(dtype)
    weight, bias = torch.randn(2, 769).to(dtype)
    set_num_threads(3)
    together = run(norm, x, weight, bias, residual=residual.clone())
    for batch in [1, 2, 5, 16, 17]:
        for first in range(0, 300 - batch, 37):
            rows = slice(first, first + batch)
            part = run(norm, x[rows], weight, bias, residual=residual[rows].clone())
            assert torch.equal(part, together[rows])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("hidden", "place"),
    [
        *[(hidden, {}) for hidden in (3, 45, 129)],
        *[(hidden, {"gap": 16, "begin": 8}) for hidden in (8, 768, 4096)],
        *[(768, {"gap": 5, "begin": 0}), (768, {"gap": 8, "begin": 3})],
    ],
    ids=str,
)
def test_norm_reads_and_writes_nothing_beside_strided_rows(device, dtype, norm, hidden, place):
    x, residual = (poisoned(torch.randn(7, hidden).to(dtype), **place) for _ in range(2))
    out = poisoned(torch.zeros(7, hidden, dtype=dtype), **place)
    weight, bias = (poisoned(torch.randn(1, hidden).to(dtype), **place) for _ in range(2))
    expected_sum = (x.view.float() + residual.view.float()).to(dtype)
    assert run(norm, x.view, weight.view[0], bias.view[0], residual=residual.view, out=out.view) is out.view
    assert torch.equal(residual.view, expected_sum)
    assert_rounded(out.view, truth(norm, expected_sum, weight.view[0], bias.view[0]), error=FP32_ERROR)
    out.assert_intact()
    residual.assert_intact()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("hidden", [77, 768])
def test_norm_in_place_equals_norm_into_a_buffer(device, dtype, norm, hidden):
    x = torch.randn(5, hidden).to(dtype)
    weight, bias = torch.randn(2, hidden).to(dtype)
    expected = run(norm, x, weight, bias)
    run(norm, x, weight, bias, out=x)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("norm", NORMS)
def test_norm_of_zeros_is_finite(device, norm):
    result = run(norm, torch.zeros(2, 40), torch.ones(40), torch.full((40,), 3.0))
    assert torch.all(result == (0.0 if norm == "rms" else 3.0))


def test_norm_names_the_operand_that_does_not_fit():
    x, weight = torch.randn(2, 8), torch.randn(8)
    with pytest.raises(InvalidArgumentError, match="weight must have shape"):
        ops.rms_norm(x, torch.randn(9), eps=EPS)
    with pytest.raises(InvalidArgumentError, match="residual must have shape"):
        ops.rms_norm(x, weight, eps=EPS, residual=torch.randn(3, 8))
    with pytest.raises(InvalidArgumentError, match="bias must be float32"):
        ops.layer_norm(x, weight, weight.half(), eps=EPS)
    with pytest.raises(InvalidArgumentError, match="eps must not be negative"):
        ops.rms_norm(x, weight, eps=-1.0)
