"""The feed-forward half of a layer."""

from typing import Literal

import torch

from fastserve.layers.linear import Linear, Projection
from fastserve.ops.activation import activation

ActivationKind = Literal["silu", "relu", "gelu", "gelu_tanh"]


class Mlp:
    """down(act(up(x))); gated: `up` gives gate and up side by side, and the product act(gate) * up goes down."""

    def __init__(self, up: Linear, down: Projection, *, kind: ActivationKind, gated: bool) -> None:
        self._up = up
        self._down = down
        self._kind = kind
        self._gated = gated

    def __call__(self, x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Map x [num_tokens, hidden_size] to the same shape."""
        return self._down(activation(self._up(x), kind=self._kind, gated=self._gated), out=out)
