"""The description of a decoder that every family is turned into."""

from dataclasses import dataclass, field
from typing import Literal

from fastserve.errors import InvalidArgumentError
from fastserve.layers.rope_spec import RopeSpec, YarnScaling
from fastserve.log import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightNames:
    """Names of tensors in a checkpoint. Those of a layer follow `{root}layers.{i}.`; the others `{root}` or nothing.

    Attributes:
        roots: prefixes under which published checkpoints keep the decoder; the one that exists is taken.
        lm_head: full name.
        ignored: regular expressions of tensors that are left unread, matched against full names: version marks, and
            rotary frequencies, which transformers computes from config.json as well.
    """

    roots: tuple[str, ...] = ("model.", "")
    embedding: str = "embed_tokens"
    position_embedding: str = "embed_positions"
    project_in: str = "project_in"
    project_out: str = "project_out"
    final_norm: str = "norm"
    lm_head: str = "lm_head"
    attention_norm: str = "input_layernorm"
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    attention_out: str = "self_attn.o_proj"
    query_norm: str = "self_attn.q_norm"
    key_norm: str = "self_attn.k_norm"
    mlp_norm: str = "post_attention_layernorm"
    mlp_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    mlp_down: str = "mlp.down_proj"
    ignored: tuple[str, ...] = (r"(.*\.)?rotary_emb\.inv_freq",)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderSpec:
    """Shape and parts of a decoder.

    Attributes:
        architecture: name in config.json.
        embedding_size: width of the token embedding; differs from hidden_size when a projection lies between.
        pre_norm: normalise before attention and MLP (with a final norm after the layers), or after each.
        gated: the MLP is down(activation(gate(x)) * up(x)), else down(activation(up(x))).
        qk_norm: query and key heads are normalised (RMS, over head_dim) before the rotary embedding.
        rope: None = learned positions, added to the embedding.
        position_offset: rows of the learned table before position 0.
        max_position: longest sequence the model was made for, tokens.
        sliding_window: tokens that attention looks back over, itself included; None = all.
        stored_dtype: as in config.json: "float32", "bfloat16" or "float16"; None where it does not say.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    embedding_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position: int
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    pre_norm: bool = True
    activation: Literal["silu", "relu", "gelu", "gelu_tanh"] = "silu"
    gated: bool = True
    qkv_bias: bool = False
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    rope: RopeSpec | None = None
    position_offset: int = 0
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    stored_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    eos_token_ids: tuple[int, ...] = ()
    names: WeightNames = field(default_factory=WeightNames)

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.num_kv_heads * self.head_dim


def context_limit(spec: DecoderSpec) -> int:
    """The longest sequence a model can run, tokens: YaRN reaches past max_position, a sliding window ends before it."""
    limit = spec.max_position
    if spec.rope is not None and isinstance(spec.rope.scaling, YarnScaling):
        limit = max(limit, int(spec.rope.scaling.factor * spec.rope.scaling.original_max_position))
    return limit if spec.sliding_window is None else min(limit, spec.sliding_window)


def resolve_max_model_len(spec: DecoderSpec, requested: int | None) -> int:
    """The longest prompt + output to serve, tokens.

    Raises:
        InvalidArgumentError: more is requested than the model can do.
    """
    limit = context_limit(spec)
    windowed = spec.sliding_window is not None and limit == spec.sliding_window
    if requested is None:
        if windowed and limit < spec.max_position:
            logger.warning(
                "context limited to %d tokens: the model's attention slides over longer ones, which is not supported",
                limit,
            )
        return limit
    if requested > limit:
        reason = "the sliding attention window of the model, longer ones are not supported" if windowed else "its limit"
        raise InvalidArgumentError(
            f"max_model_len must be at most {limit} tokens ({reason}), got {requested}; lower --max-model-len"
        )
    return requested
