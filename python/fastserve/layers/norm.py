"""Normalisation over the hidden dimension, with the residual addition folded in."""

from typing import Literal, Protocol

import torch

from fastserve.layers.weights import WeightSource, load_tensor
from fastserve.ops.norm import layer_norm, rms_norm


class Norm(Protocol):
    """Base of both kinds."""

    def __call__(
        self, x: torch.Tensor, *, residual: torch.Tensor | None = None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Normalise x [num_tokens, width]; with a residual, add x to it in place and normalise the sum."""


class RmsNorm:
    """x / rms(x) * weight."""

    def __init__(self, weight: torch.Tensor, eps: float) -> None:
        self._weight = weight
        self._eps = eps

    def __call__(
        self, x: torch.Tensor, *, residual: torch.Tensor | None = None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Norm`."""
        return rms_norm(x, self._weight, eps=self._eps, residual=residual, out=out)


class LayerNorm:
    """(x - mean(x)) / std(x) * weight + bias."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> None:
        self._weight = weight
        self._bias = bias
        self._eps = eps

    def __call__(
        self, x: torch.Tensor, *, residual: torch.Tensor | None = None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See `Norm`."""
        return layer_norm(x, self._weight, self._bias, eps=self._eps, residual=residual, out=out)


def load_norm(
    source: WeightSource,
    name: str,
    width: int,
    *,
    kind: Literal["rms", "layer"],
    eps: float,
    dtype: torch.dtype,
    device: torch.device,
) -> Norm:
    """Load the norm `name` of a checkpoint."""
    weight = load_tensor(source, f"{name}.weight", (width,), dtype=dtype, device=device)
    if kind == "rms":
        return RmsNorm(weight, eps)
    return LayerNorm(weight, load_tensor(source, f"{name}.bias", (width,), dtype=dtype, device=device), eps)
