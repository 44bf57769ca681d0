"""From a spec and its weights to a `Decoder`. All sizes of a rank are taken here, and only here."""

import torch

from fastserve.layers.attention import HeadNorms, SelfAttention
from fastserve.layers.linear import SHARED_INPUT_SEGMENTS, Linear, load_linear
from fastserve.layers.mlp import Mlp
from fastserve.layers.norm import Norm, load_norm
from fastserve.layers.rotary import rope_table
from fastserve.layers.weights import WeightSource, load_tensor
from fastserve.log import get_logger
from fastserve.models.decoder import Decoder, DecoderLayer
from fastserve.models.spec import DecoderSpec

logger = get_logger(__name__)


class _Builder:
    """Loads the parts of one decoder."""

    def __init__(self, spec: DecoderSpec, source: WeightSource, dtype: torch.dtype, device: torch.device) -> None:
        self.spec = spec
        self.names = spec.names
        self.source = source
        self.dtype = dtype
        self.device = device
        embedding = f"{spec.names.embedding}.weight"
        self.root = next((root for root in self.names.roots if source.has(root + embedding)), self.names.roots[0])

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        return load_tensor(self.source, name, shape, dtype=self.dtype, device=self.device)

    def linear(
        self, parts: list[tuple[str, int]], in_features: int, *, bias: bool = False, shared: bool = False
    ) -> Linear:
        """A projection; `shared` where ranks of tensor parallelism would share its inputs."""
        return load_linear(
            self.source,
            parts,
            in_features,
            bias=bias,
            dtype=self.dtype,
            device=self.device,
            num_segments=SHARED_INPUT_SEGMENTS if shared else 1,
        )

    def norm(self, name: str) -> Norm:
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
        spec, names, prefix = self.spec, self.names, self.layer_prefix(index)
        parts = [
            (prefix + names.query, spec.query_size),
            (prefix + names.key, spec.kv_size),
            (prefix + names.value, spec.kv_size),
        ]
        norms = None
        if spec.qk_norm:
            query_norm = self.tensor(f"{prefix}{names.query_norm}.weight", spec.head_dim)
            key_norm = self.tensor(f"{prefix}{names.key_norm}.weight", spec.head_dim)
            norms = HeadNorms(query_norm, key_norm, spec.norm_eps)
        return SelfAttention(
            self.linear(parts, spec.hidden_size, bias=spec.qkv_bias),
            layer=index,
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            rope_table=table,
            norms=norms,
        )

    def mlp(self, index: int) -> Mlp:
        spec, prefix = self.spec, self.layer_prefix(index)
        up = [(prefix + name, spec.intermediate_size) for name in self.names.mlp_up]
        down = [(prefix + self.names.mlp_down, spec.hidden_size)]
        return Mlp(
            self.linear(up, spec.hidden_size, bias=spec.mlp_bias),
            self.linear(down, spec.intermediate_size, bias=spec.mlp_bias, shared=True),
            kind=spec.activation,
            gated=spec.gated,
        )

    def layer(self, index: int, table: torch.Tensor | None) -> DecoderLayer:
        spec, names, prefix = self.spec, self.names, self.layer_prefix(index)
        out_parts = [(prefix + names.attention_out, spec.hidden_size)]
        return DecoderLayer(
            self.attention(index, table),
            self.linear(out_parts, spec.query_size, bias=spec.attention_out_bias, shared=True),
            self.mlp(index),
            attention_norm=self.norm(prefix + names.attention_norm),
            mlp_norm=self.norm(prefix + names.mlp_norm),
            pre_norm=spec.pre_norm,
        )

    def layer_prefix(self, index: int) -> str:
        return f"{self.root}layers.{index}."

    def positions(self, max_model_len: int) -> torch.Tensor:
        spec = self.spec
        name = f"{self.root}{self.names.position_embedding}.weight"
        table = self.tensor(name, spec.max_position + spec.position_offset, spec.hidden_size)
        return table[spec.position_offset : spec.position_offset + max_model_len]

    def projection(self, name: str, in_features: int, out_features: int) -> Linear | None:
        if self.spec.embedding_size == self.spec.hidden_size:
            return None
        return self.linear([(self.root + name, out_features)], in_features)

    def lm_head(self, embedding_table: torch.Tensor) -> Linear:
        """The output projection: a head of its own in the file is used even where it should be the embedding.

        So does transformers from version 5 on: a fine-tune may have untied the two and left the field as it was.
        """
        spec, name = self.spec, f"{self.names.lm_head}.weight"
        if not spec.tie_word_embeddings:
            return self.linear([(self.names.lm_head, spec.vocab_size)], spec.embedding_size)
        if not self.source.has(name):
            return Linear(embedding_table)
        head = self.tensor(name, spec.vocab_size, spec.embedding_size)
        if torch.equal(head, embedding_table):
            return Linear(embedding_table)
        logger.warning("%s differs from the embedding and is used, although tie_word_embeddings is true", name)
        return Linear(head)


def build_decoder(
    spec: DecoderSpec, source: WeightSource, *, max_model_len: int, dtype: torch.dtype, device: torch.device
) -> Decoder:
    """Load a decoder.

    Args:
        max_model_len: positions to prepare for; see `resolve_max_model_len`.
        dtype: of weights, activations and KV.
    Raises:
        CheckpointError: a tensor is missing or mis-shaped.
    """
    builder = _Builder(spec, source, dtype, device)
    names = spec.names
    embedding_table = builder.tensor(f"{builder.root}{names.embedding}.weight", spec.vocab_size, spec.embedding_size)
    table = rope_table(spec.rope, max_model_len, device) if spec.rope is not None else None
    return Decoder(
        spec,
        [builder.layer(index, table) for index in range(spec.num_layers)],
        embedding_table=embedding_table,
        position_table=None if spec.rope is not None else builder.positions(max_model_len),
        project_in=builder.projection(names.project_in, spec.embedding_size, spec.hidden_size),
        project_out=builder.projection(names.project_out, spec.hidden_size, spec.embedding_size),
        final_norm=builder.norm(builder.root + names.final_norm) if spec.pre_norm else None,
        lm_head=builder.lm_head(embedding_table),
    )
