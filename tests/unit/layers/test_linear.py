"""Fused projections."""

import pytest
import torch

from fastserve.distributed.single import SINGLE
from fastserve.errors import CheckpointError
from fastserve.layers import linear as linear_module
from fastserve.layers.linear import Linear, Part, load_linear, load_row_linear

CPU = torch.device("cpu")


class Tensors:
    """A WeightSource over a dict."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors = {name.replace("__", "."): tensor for name, tensor in tensors.items()}

    def has(self, name: str) -> bool:
        return name in self.tensors

    def expect(self, name: str, shape: tuple[int, ...]) -> None:
        assert self.tensors[name].shape == shape

    def read_into(
        self, name: str, out: torch.Tensor, *, rows: range | None = None, columns: range | None = None
    ) -> None:
        if name not in self.tensors:
            raise CheckpointError(name)
        values = self.tensors[name]
        if rows is not None:
            values = values[rows.start : rows.stop]
        if columns is not None:
            values = values[:, columns.start : columns.stop]
        out.copy_(values)

    def leave(self, name: str) -> None:
        assert name in self.tensors


def rand(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_parts_lie_side_by_side_in_the_output() -> None:
    source = Tensors(q__weight=rand(6, 8), q__bias=rand(6), k__weight=rand(3, 8), k__bias=rand(3))
    layer = load_linear(source, [Part("q", 6), Part("k", 3)], 8, bias=True, dtype=torch.float32, device=CPU)
    x = rand(5, 8)
    y = layer(x)
    assert (layer.in_features, layer.out_features) == (8, 9)
    for name, part in (("q", y[:, :6]), ("k", y[:, 6:])):
        expected = x @ source.tensors[f"{name}.weight"].T + source.tensors[f"{name}.bias"]
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("piece_bytes", [1, 32 * 8 * 4, 3 * 32 * 8 * 4, 1 << 20])
@pytest.mark.parametrize("columns", [None, range(2, 6)])
def test_pieces_of_a_weight_are_packed_one_by_one(
    piece_bytes: int, columns: range | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of sizes that pieces do not divide, one of them padded beyond its matrix."""
    monkeypatch.setattr(linear_module, "PIECE_BYTES", piece_bytes)
    source = Tensors(a__weight=rand(70, 8), a__bias=rand(70), b__weight=rand(41, 8), b__bias=rand(41))
    parts = [Part("a", 70, range(20, 65)), Part("b", 41), Part("a", 70, range(60, 75))]
    w, b = source.tensors["a.weight"], source.tensors["a.bias"]
    weight = torch.cat([w[20:65], source.tensors["b.weight"], w[60:], torch.zeros(5, 8)])
    bias = torch.cat([b[20:65], source.tensors["b.bias"], b[60:], torch.zeros(5)])
    x = rand(5, 8)
    if columns is None:
        layer = load_linear(source, parts, 8, bias=True, dtype=torch.float32, device=CPU)
        assert torch.equal(layer(x), Linear(weight, bias)(x))
        assert (layer.out_features, layer.in_features) == (101, 8)
        return
    part = Part("b", 41)
    shared = load_row_linear(source, part, 8, columns=columns, group=SINGLE, bias=True, dtype=torch.float32, device=CPU)
    own = Linear(source.tensors["b.weight"][:, 2:6].contiguous(), source.tensors["b.bias"], num_segments=8)
    assert torch.equal(shared(x[:, 2:6]), own(x[:, 2:6]))


def test_the_result_goes_where_it_is_wanted() -> None:
    layer, x, out = Linear(rand(4, 8)), rand(3, 8), torch.empty(3, 4)
    assert layer(x, out=out) is out
    torch.testing.assert_close(out, layer(x))


def test_logits_are_wanted_in_float32() -> None:
    layer, x = Linear(rand(4, 8).to(torch.bfloat16)), rand(3, 8).to(torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16
    assert layer(x, out_dtype=torch.float32).dtype == torch.float32


CUDA = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)


@pytest.mark.parametrize("device", ["meta", CUDA])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("num_tokens", [3, 0])
def test_off_the_cpu_the_plain_weight_goes_to_torch(device: str, with_bias: bool, num_tokens: int) -> None:
    """The meta device stands for any that is not a CPU: shapes and types without values."""
    weight, bias, x = (values.to(device, torch.bfloat16) for values in (rand(4, 8), rand(4), rand(num_tokens, 8)))
    layer = Linear(weight, bias if with_bias else None)
    results = {layer(x), layer(x, out_dtype=torch.float32)}
    for dtype in (torch.bfloat16, torch.float32):  # logits go to a float32 tensor at a fixed address
        out = torch.empty((num_tokens, 4), device=device, dtype=dtype)
        assert layer(x, out=out) is out
        results.add(out)
    assert sorted(str(result.dtype) for result in results) == ["torch.bfloat16"] * 2 + ["torch.float32"] * 2
    expected = x.double() @ weight.double().t() + (bias.double() if with_bias else 0.0)
    for result in results:
        assert result.shape == (num_tokens, 4)
        if device != "meta":
            rounding = 2.0**-7 if result.dtype == torch.bfloat16 else 2.0**-18
            torch.testing.assert_close(result.double(), expected, rtol=rounding, atol=rounding)
