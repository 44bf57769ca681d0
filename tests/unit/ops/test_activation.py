"""ops.activation against float64, plain and gated."""

from itertools import product

import pytest
import torch
from torch.nn import functional

from fastserve import ops
from fastserve.errors import InvalidArgumentError
from tests.unit.ops.oracle import assert_rounded, poisoned

TRUTH = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}
KINDS = list(TRUTH)
# Relative to the input: exp is good to 2e-7 and the erf polynomial to 2e-7 absolute; then a few roundings of 6e-8.
FP32_ERROR = 1e-6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_tokens", "size"), [*product([0, 1, 3, 17, 129], [1, 33, 160]), (2, 5000), (2, 5001)])
def test_activation_matches_float64(device, dtype, kind, num_tokens, size):
    x = (3 * torch.randn(num_tokens, 2 * size)).to(dtype)
    activated = TRUTH[kind](x[:, :size].double())
    scale = FP32_ERROR * x[:, :size].double().abs()
    assert_rounded(ops.activation(x[:, :size], kind=kind, gated=False), activated, error=scale)
    gate = x[:, size:].double()
    assert_rounded(ops.activation(x, kind=kind, gated=True), activated * gate, error=scale * gate.abs())


@pytest.mark.parametrize("kind", KINDS)
def test_activation_holds_from_the_far_left_to_the_far_right(device, kind):
    x = torch.cat([torch.linspace(-120, 120, 4801), torch.linspace(-1e-3, 1e-3, 99)])[None]
    error = FP32_ERROR * x.double().abs()
    assert_rounded(ops.activation(x, kind=kind, gated=False), TRUTH[kind](x.double()), error=error)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_nan(device, dtype, kind):
    x = torch.ones(1, 21, dtype=dtype)
    x[0, [0, 7, 20]] = float("nan")
    assert torch.equal(ops.activation(x, kind=kind, gated=False).isnan(), x.isnan())


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_in_every_batch(device, dtype, kind, set_num_threads):
    x = torch.randn(300, 2 * 97).to(dtype)
    set_num_threads(3)
    together = ops.activation(x, kind=kind, gated=True)
    for batch in [1, 2, 5, 16, 17]:
        for first in range(0, 300 - batch, 37):
            part = ops.activation(x[first : first + batch], kind=kind, gated=True)
            assert torch.equal(part, together[first : first + batch])


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize(
    ("size", "place"),
    [(45, {}), (48, {"gap": 16, "begin": 8}), (48, {"gap": 5, "begin": 0}), (48, {"gap": 8, "begin": 3})],
    ids=str,
)
def test_activation_reads_and_writes_nothing_beside_strided_rows(device, dtype, gated, size, place):
    x = poisoned(torch.randn(7, 2 * size if gated else size).to(dtype), **place)
    out = poisoned(torch.zeros(7, size, dtype=dtype), **place)
    assert ops.activation(x.view, kind="silu", gated=gated, out=out.view) is out.view
    assert torch.equal(out.view, ops.activation(x.view.contiguous(), kind="silu", gated=gated))
    assert not out.view.isnan().any()
    out.assert_intact()


def test_activation_says_what_does_not_fit():
    with pytest.raises(InvalidArgumentError, match="unknown activation 'swish'"):
        ops.activation(torch.randn(2, 4), kind="swish", gated=False)
    with pytest.raises(InvalidArgumentError, match="x must have shape"):
        ops.activation(torch.randn(2, 5), kind="silu", gated=True)
