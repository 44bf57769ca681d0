"""What a checkpoint says of its rotary position embedding; see `rotary` for the frequencies that follow from it."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Positions divided by `factor` (position interpolation)."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3.1: long wavelengths divided by `factor`, short ones kept, a smooth change between.

    `low_freq_factor` and `high_freq_factor` are turns within `original_max_position` tokens.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN (Peng et al., 2023, arXiv:2309.00071): as Llama3Scaling with a ramp over dimensions, and cosines and sines
    times `attention_factor`, which sharpens the softmax."""

    factor: float
    beta_fast: float
    beta_slow: float
    attention_factor: float
    original_max_position: int
    truncate: bool


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding of the first `rotary_dim` (even) dimensions of each head, pairs (i, i + rotary_dim / 2)."""

    theta: float
    rotary_dim: int
    scaling: RopeScaling | None = None


def yarn_attention_factor(factor: float, mscale: float = 1.0) -> float:
    """0.1 mscale ln(factor) + 1, the temperature of the YaRN paper (its equation 22, as a factor on q and k)."""
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0
