"""Whether a model can fit into the memory of this machine, told before any of it is taken."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fastserve.errors import CheckpointError
from fastserve.models.spec import DecoderSpec

MEMINFO = Path("/proc/meminfo")
TABLE_BYTES = 4  # a cosine or a sine
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class DecoderBytes:
    """What a decoder takes, at the least: its weights, and the tables that are computed for its positions."""

    weights: int
    tables: int


def decoder_bytes(spec: DecoderSpec, max_model_len: int, dtype: torch.dtype) -> DecoderBytes:
    """The memory of a decoder for sequences of up to `max_model_len` tokens, bytes; norms and biases are left out."""
    attention = spec.hidden_size * (2 * spec.query_size + 2 * spec.kv_size)
    mlp = spec.hidden_size * spec.intermediate_size * (3 if spec.gated else 2)
    embedding = spec.vocab_size * spec.embedding_size
    numbers = spec.num_layers * (attention + mlp) + embedding * (1 if spec.tie_word_embeddings else 2)
    if spec.rope is None:
        numbers += (spec.max_position + spec.position_offset) * spec.hidden_size
        return DecoderBytes(numbers * dtype.itemsize, 0)
    return DecoderBytes(numbers * dtype.itemsize, max_model_len * spec.rope.rotary_dim * TABLE_BYTES)


def available_bytes() -> int | None:
    """Memory that this machine could still give, swap included; None where it does not say."""
    try:
        rows = dict(row.split(":", 1) for row in MEMINFO.read_text().splitlines())
        return 1024 * sum(int(rows[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError):
        return None


def check_memory(folder: Path, spec: DecoderSpec, max_model_len: int, dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a decoder that the memory of this machine cannot hold: most often config.json is wrong.

    Args:
        folder: for the message.
        device: where the weights go; those on a GPU take none of the memory that is looked at.
    Raises:
        CheckpointError: with the bytes that are wanted and those that are available.
    """
    wanted, available = decoder_bytes(spec, max_model_len, dtype), available_bytes()
    weights = wanted.weights if device.type == "cpu" else 0
    if available is not None and weights + wanted.tables > available:
        raise CheckpointError(
            f"{folder}/config.json asks for {wanted.weights / GIB:.1f} GiB of weights and {wanted.tables / GIB:.1f} GiB of"
            f" position tables (max_model_len {max_model_len}), and {available / GIB:.1f} GiB of memory are available;"
            f" check its sizes, lower --max-model-len, or use a smaller model"
        )
