"""Whether a model fits into the memory of this machine, checked before any of it is allocated."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fastserve.distributed.group import Group
from fastserve.distributed.single import SINGLE
from fastserve.errors import CheckpointError
from fastserve.models.shard import Shard, local_spec
from fastserve.models.spec import DecoderSpec

MEMINFO = Path("/proc/meminfo")
TABLE_BYTES = 4  # a cosine or a sine
GIB = 1 << 30
UNKNOWN = 1 << 55  # more than any machine has, also 64 times


@dataclass(frozen=True, slots=True)
class DecoderBytes:
    """Return the least memory of a decoder: its weights and the tables computed for its positions."""

    weights: int
    tables: int


def decoder_bytes(spec: DecoderSpec, shard: Shard, max_model_len: int, dtype: torch.dtype) -> DecoderBytes:
    """The memory of a rank's part of a decoder for sequences of up to `max_model_len` tokens, bytes; norms and biases are
    left out.

    Args:
        spec: of the whole decoder.
    """
    local = local_spec(spec, shard)
    attention = local.hidden_size * (2 * local.query_size + 2 * local.kv_size)
    mlp = local.hidden_size * local.intermediate_size * (3 if local.gated else 2)
    embedding = len(shard.vocabulary(local.vocab_size)) * local.embedding_size
    num_embeddings = shard.is_first + shard.is_last
    if shard.is_first and shard.is_last and local.tie_word_embeddings:
        num_embeddings = 1
    numbers = local.num_layers * (attention + mlp) + embedding * num_embeddings
    if local.rope is None:
        numbers += (local.max_position + local.position_offset) * local.hidden_size if shard.is_first else 0
        return DecoderBytes(numbers * dtype.itemsize, 0)
    return DecoderBytes(numbers * dtype.itemsize, max_model_len * local.rope.rotary_dim * TABLE_BYTES)


def available_bytes() -> int | None:
    """Return the memory that is still available on this machine, swap included; None where that is unknown."""
    try:
        rows = dict(row.split(":", 1) for row in MEMINFO.read_text().splitlines())
        return 1024 * sum(int(rows[name].split()[0]) for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError):
        return None


def check_memory(
    folder: Path,
    spec: DecoderSpec,
    shard: Shard,
    world: Group = SINGLE,
    *,
    max_model_len: int,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Refuse a decoder that the memory of this machine cannot hold: most often config.json is wrong.

    Args:
        folder: for the message.
        world: the ranks whose parts the memory has to hold together; none has loaded anything before all are here.
        device: where the weights go; those on a GPU take none of the memory that is looked at.
    Raises:
        CheckpointError: with the bytes that are wanted and those that are available.
    """
    mine, found = decoder_bytes(spec, shard, max_model_len, dtype), available_bytes()
    of_ranks = world.all_gather(torch.tensor([mine.weights, mine.tables, UNKNOWN if found is None else found]))
    (weights, tables, _), available = of_ranks.sum(0).tolist(), int(of_ranks[:, 2].min())
    if (weights if device.type == "cpu" else 0) + tables > available:
        ranks = f" on {world.size} ranks" if world.size > 1 else ""
        raise CheckpointError(
            f"{folder}/config.json asks for {weights / GIB:.1f} GiB of weights and {tables / GIB:.1f} GiB of"
            f" position tables{ranks} (max_model_len {max_model_len}), and {available / GIB:.1f} GiB of memory are available;"
            f" check its sizes, lower --max-model-len, or use a smaller model"
        )
