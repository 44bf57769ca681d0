"""Rotary position embedding: frequencies, their scaling for long contexts, and the table of cosines and sines."""

import math

import torch

from fastserve.layers.rope_spec import LinearScaling, Llama3Scaling, RopeSpec, YarnScaling


def _llama3_frequencies(inv_freq: torch.Tensor, scaling: Llama3Scaling) -> torch.Tensor:
    turns = scaling.original_max_position * inv_freq / (2 * math.pi)
    share_kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    share_kept = share_kept.clamp(0.0, 1.0)
    return (1.0 - share_kept) * inv_freq / scaling.factor + share_kept * inv_freq


def _yarn_frequencies(inv_freq: torch.Tensor, rope: RopeSpec, scaling: YarnScaling) -> torch.Tensor:
    def dim_of_turns(turns: float) -> float:
        ratio = scaling.original_max_position / (turns * 2 * math.pi)
        return rope.rotary_dim * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = dim_of_turns(scaling.beta_fast), dim_of_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.rotary_dim - 1)
    width = high - low if high != low else 0.001
    share_scaled = ((torch.arange(len(inv_freq), dtype=torch.float32) - low) / width).clamp(0.0, 1.0)
    return inv_freq / scaling.factor * share_scaled + inv_freq * (1.0 - share_scaled)


def rope_frequencies(rope: RopeSpec) -> torch.Tensor:
    """Radians per token of each pair: float32 [rotary_dim / 2].

    Computed in float32, as the code these checkpoints were trained with does: far into a context, an angle depends on
    the last bits of its frequency.
    """
    exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.float32) / rope.rotary_dim
    inv_freq = 1.0 / (rope.theta**exponents)
    match rope.scaling:
        case LinearScaling(factor):
            return inv_freq / factor
        case Llama3Scaling():
            return _llama3_frequencies(inv_freq, rope.scaling)
        case YarnScaling():
            return _yarn_frequencies(inv_freq, rope, rope.scaling)
        case None:
            return inv_freq


def rope_table(rope: RopeSpec, max_position: int, device: torch.device) -> torch.Tensor:
    """Cosines then sines of every position: float32 [max_position, rotary_dim]."""
    angles = torch.outer(torch.arange(max_position, dtype=torch.float32), rope_frequencies(rope))
    table = torch.cat((angles.cos(), angles.sin()), dim=-1)
    if isinstance(rope.scaling, YarnScaling):
        table *= rope.scaling.attention_factor
    return table.to(device)
