"""From a spec and its weights to a `Decoder`, whole or a rank's part of it."""

import torch

from fastserve.distributed.group import Group
from fastserve.distributed.single import SINGLE
from fastserve.errors import InvalidArgumentError
from fastserve.layers.rotary import rope_table
from fastserve.layers.weights import WeightSource
from fastserve.log import get_logger
from fastserve.models.decoder import Decoder
from fastserve.models.parts import DecoderParts
from fastserve.models.shard import WHOLE, Shard, has_bits_of_one_rank
from fastserve.models.spec import DecoderSpec

logger = get_logger(__name__)
NOWHERE = torch.device("meta")


class _LeftToOthers:
    """A `WeightSource` of what other stages read: names and shapes are checked, nothing is read."""

    def __init__(self, source: WeightSource) -> None:
        self.has = source.has
        self.expect = source.expect
        self.leave = source.leave

    def read_into(
        self, name: str, out: torch.Tensor, *, rows: range | None = None, columns: range | None = None
    ) -> None:
        self.leave(name)


def build_decoder(
    spec: DecoderSpec,
    source: WeightSource,
    shard: Shard = WHOLE,
    group: Group = SINGLE,
    *,
    max_model_len: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Decoder:
    """Load a decoder, or what one rank has of it.

    Args:
        spec: of the whole decoder.
        group: the ranks of the shard's stage.
        max_model_len: positions to prepare for; see `resolve_max_model_len`.
        dtype: of weights, activations and KV.
    Raises:
        CheckpointError: a tensor is missing or mis-shaped, in a part that other ranks read as well.
        InvalidArgumentError: the decoder cannot be shared like this; see `check_shard`.
    """
    if (group.rank, group.size) != (shard.tensor_rank, shard.tensor_size):
        raise InvalidArgumentError(
            f"the group must be that of the shard, rank {shard.tensor_rank} of {shard.tensor_size}, got rank {group.rank}"
            f" of {group.size}"
        )
    parts = DecoderParts(spec, source, shard, group, dtype=dtype, device=device)
    if device.type == "cpu" and shard.tensor_rank == 0 and not has_bits_of_one_rank(spec, shard.tensor_size):
        logger.warning(
            "tensor_parallel_size %d cuts sums within a segment: tokens may differ from those of one rank",
            shard.tensor_size,
        )
    table = rope_table(spec.rope, max_model_len, device) if spec.rope is not None else None
    mine = shard.layers(spec.num_layers)
    embedding_table = parts.embedding_table() if shard.is_first else None
    input_end = parts.input_end(embedding_table, max_model_len) if embedding_table is not None else None
    decoder = Decoder(
        parts.local,
        [parts.layer(index, table) for index in mine],
        dtype=dtype,
        device=device,
        input_end=input_end,
        output_end=parts.output_end(embedding_table) if shard.is_last else None,
    )
    if shard.num_stages > 1:
        _leave_to_others(DecoderParts(spec, _LeftToOthers(source), WHOLE, SINGLE, dtype=dtype, device=NOWHERE), shard)
    return decoder


def _leave_to_others(parts: DecoderParts, shard: Shard) -> None:
    """Check the tensors that only other stages read."""
    mine = shard.layers(parts.spec.num_layers)
    for index in range(parts.spec.num_layers):
        if index not in mine:
            parts.layer(index, None)
    if not shard.is_first:
        parts.input_end(parts.embedding_table(), 0)
    if not shard.is_last:
        parts.output_end(None)
