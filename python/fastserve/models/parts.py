"""The parts of a decoder. All sizes of a rank are taken here, and only here."""

import torch

from fastserve.distributed.group import Group
from fastserve.layers.attention import HeadNorms, SelfAttention
from fastserve.layers.linear import (
    SHARED_INPUT_SEGMENTS,
    Linear,
    Part,
    Projection,
    load_linear,
    load_row_linear,
)
from fastserve.layers.mlp import Mlp
from fastserve.layers.norm import Norm, load_norm
from fastserve.layers.vocabulary import LogitsHead, TokenEmbedding, load_vocabulary
from fastserve.layers.weights import WeightSource, load_tensor
from fastserve.log import get_logger
from fastserve.models.decoder import DecoderLayer
from fastserve.models.ends import InputEnd, OutputEnd
from fastserve.models.shard import Shard, local_spec
from fastserve.models.spec import DecoderSpec

logger = get_logger(__name__)


class DecoderParts:
    """Loads the parts of one decoder that a rank has.

    Args:
        spec: of the whole decoder.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        source: WeightSource,
        shard: Shard,
        group: Group,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.spec = spec
        self.local = local_spec(spec, shard)
        self.names = spec.names
        self.source = source
        self.shard = shard
        self.group = group
        self.dtype = dtype
        self.device = device
        embedding = f"{spec.names.embedding}.weight"
        self.root = next((root for root in self.names.roots if source.has(root + embedding)), self.names.roots[0])

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """A tensor that is whole on every rank."""
        return load_tensor(self.source, name, shape, dtype=self.dtype, device=self.device)

    def vocabulary(self, name: str) -> torch.Tensor:
        """The rank's rows of an embedding, or of an output projection."""
        spec = self.spec
        return load_vocabulary(
            self.source,
            f"{name}.weight",
            (spec.vocab_size, spec.embedding_size),
            self.shard.vocabulary(spec.vocab_size),
            dtype=self.dtype,
            device=self.device,
        )

    def linear(self, parts: list[Part], in_features: int, *, bias: bool = False) -> Linear:
        """A projection whose inputs are whole on every rank."""
        return load_linear(self.source, parts, in_features, bias=bias, dtype=self.dtype, device=self.device)

    def shared_linear(self, name: str, in_features: int, *, bias: bool) -> Projection:
        """A projection to the hidden size, whose inputs the ranks share."""
        part, dtype, device = Part(name, self.spec.hidden_size), self.dtype, self.device
        if self.shard.tensor_size == 1:
            segments = SHARED_INPUT_SEGMENTS
            return load_linear(
                self.source, [part], in_features, bias=bias, dtype=dtype, device=device, num_segments=segments
            )
        columns = self.shard.part(in_features)
        return load_row_linear(
            self.source, part, in_features, columns=columns, group=self.group, bias=bias, dtype=dtype, device=device
        )

    def part(self, name: str, num_blocks: int, mine: range, block: int = 1) -> Part:
        """The outputs of a projection that this rank has: blocks `mine` of `num_blocks`, of `block` outputs each."""
        rows = range(mine.start * block, mine.stop * block)
        return Part(name, num_blocks * block, None if len(mine) == num_blocks else rows)

    def norm(self, name: str) -> Norm:
        """A norm over the hidden size."""
        spec = self.spec
        return load_norm(
            self.source,
            name,
            spec.hidden_size,
            kind=spec.norm,
            eps=spec.norm_eps,
            dtype=self.dtype,
            device=self.device,
        )

    def attention(self, index: int, table: torch.Tensor | None) -> SelfAttention:
        """The rank's heads of a layer; `table` is that of the rotary embedding."""
        spec, local, names, prefix = self.spec, self.local, self.names, self.layer_prefix(index)
        heads, kv_heads = self.shard.part(spec.num_heads), self.shard.kv_heads(spec.num_kv_heads)
        parts = [
            self.part(prefix + names.query, spec.num_heads, heads, spec.head_dim),
            self.part(prefix + names.key, spec.num_kv_heads, kv_heads, spec.head_dim),
            self.part(prefix + names.value, spec.num_kv_heads, kv_heads, spec.head_dim),
        ]
        norms = None
        if spec.qk_norm:
            query_norm = self.tensor(f"{prefix}{names.query_norm}.weight", spec.head_dim)
            key_norm = self.tensor(f"{prefix}{names.key_norm}.weight", spec.head_dim)
            norms = HeadNorms(query_norm, key_norm, spec.norm_eps)
        return SelfAttention(
            self.linear(parts, spec.hidden_size, bias=spec.qkv_bias),
            layer=index - self.shard.layers(spec.num_layers).start,
            num_heads=local.num_heads,
            num_kv_heads=local.num_kv_heads,
            head_dim=spec.head_dim,
            rope_table=table,
            norms=norms,
        )

    def mlp(self, index: int) -> Mlp:
        """The rank's part of the MLP of a layer."""
        spec, prefix = self.spec, self.layer_prefix(index)
        inner = self.shard.part(spec.intermediate_size)
        up = [self.part(prefix + name, spec.intermediate_size, inner) for name in self.names.mlp_up]
        return Mlp(
            self.linear(up, spec.hidden_size, bias=spec.mlp_bias),
            self.shared_linear(prefix + self.names.mlp_down, spec.intermediate_size, bias=spec.mlp_bias),
            kind=spec.activation,
            gated=spec.gated,
        )

    def layer(self, index: int, table: torch.Tensor | None) -> DecoderLayer:
        """The rank's part of a layer; `index` counts from the first one of the whole decoder."""
        spec, names, prefix = self.spec, self.names, self.layer_prefix(index)
        return DecoderLayer(
            self.attention(index, table),
            self.shared_linear(prefix + names.attention_out, spec.query_size, bias=spec.attention_out_bias),
            self.mlp(index),
            attention_norm=self.norm(prefix + names.attention_norm),
            mlp_norm=self.norm(prefix + names.mlp_norm),
            pre_norm=spec.pre_norm,
        )

    def layer_prefix(self, index: int) -> str:
        """What the names of a layer's tensors begin with."""
        return f"{self.root}layers.{index}."

    def positions(self, max_model_len: int) -> torch.Tensor:
        """Learned positions, [max_model_len, hidden_size]."""
        spec = self.spec
        name = f"{self.root}{self.names.position_embedding}.weight"
        table = self.tensor(name, spec.max_position + spec.position_offset, spec.hidden_size)
        return table[spec.position_offset : spec.position_offset + max_model_len]

    def projection(self, name: str, in_features: int, out_features: int) -> Linear | None:
        """Between embedding_size and hidden_size; None when they are equal."""
        if self.spec.embedding_size == self.spec.hidden_size:
            return None
        return self.linear([Part(self.root + name, out_features)], in_features)

    def embedding_table(self) -> torch.Tensor:
        """The rank's rows of the embedding."""
        return self.vocabulary(self.root + self.names.embedding)

    def input_end(self, table: torch.Tensor, max_model_len: int) -> InputEnd:
        """The end before the layers; `table` is the embedding's."""
        spec = self.spec
        return InputEnd(
            TokenEmbedding(table, spec.vocab_size, self.group),
            position_table=None if spec.rope is not None else self.positions(max_model_len),
            project=self.projection(self.names.project_in, spec.embedding_size, spec.hidden_size),
            pre_norm=spec.pre_norm,
        )

    def output_end(self, table: torch.Tensor | None) -> OutputEnd:
        """Build the end after the layers; `table` is the embedding's if this rank has it already."""
        spec = self.spec
        return OutputEnd(
            LogitsHead(self.head(table), spec.vocab_size, self.group),
            norm=self.norm(self.root + self.names.final_norm) if spec.pre_norm else None,
            project=self.projection(self.names.project_out, spec.hidden_size, spec.embedding_size),
        )

    def head(self, table: torch.Tensor | None) -> Linear:
        """The output projection: one in the file is used even where it should be the embedding.

        So does transformers from version 5 on: a fine-tune may have untied the two and left the field as it was.
        """
        spec, name = self.spec, self.names.lm_head
        if not spec.tie_word_embeddings:
            part = Part(name, spec.vocab_size, self.shard.vocabulary(spec.vocab_size))
            return self.linear([part], spec.embedding_size)
        table = self.embedding_table() if table is None else table
        if not self.source.has(f"{name}.weight"):
            return Linear(table)
        head = self.vocabulary(name)
        if head.is_meta or torch.equal(head, table):
            return Linear(table)
        logger.warning("%s.weight differs from the embedding and is used, although tie_word_embeddings is true", name)
        return Linear(head)
