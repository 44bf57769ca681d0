"""Llama 2 and 3, and the families built like it: Mistral, Qwen2, Qwen3."""

from fastserve.models.common_fields import read_activation, read_dtype
from fastserve.models.config_json import ConfigJson
from fastserve.models.rope_config import read_rope
from fastserve.models.spec import DecoderSpec


def _head_dim(config: ConfigJson, num_heads: int, default: int | None = None) -> int:
    hidden_size = config.size("hidden_size")
    if "head_dim" not in config and default is None and hidden_size % num_heads != 0:
        raise config.error(
            "num_attention_heads", f"must divide hidden_size ({hidden_size}) where head_dim is not given"
        )
    return config.size("head_dim", default or hidden_size // num_heads)


def _rotary_decoder(
    config: ConfigJson,
    *,
    default_head_dim: int | None = None,
    qkv_bias: bool = False,
    attention_out_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    sliding_window: int | None = None,
) -> DecoderSpec:
    num_heads = config.size("num_attention_heads")
    num_kv_heads = config.size("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads != 0:
        raise config.error("num_key_value_heads", f"must divide num_attention_heads ({num_heads})")
    head_dim = _head_dim(config, num_heads, default_head_dim)
    hidden_size = config.size("hidden_size")
    return DecoderSpec(
        architecture=config.strings("architectures")[0],
        num_layers=config.size("num_hidden_layers"),
        hidden_size=hidden_size,
        embedding_size=hidden_size,
        intermediate_size=config.size("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        vocab_size=config.size("vocab_size"),
        max_position=config.size("max_position_embeddings"),
        norm_eps=config.number("rms_norm_eps", 1e-6),
        activation=read_activation(config, "hidden_act", "silu"),
        rope=read_rope(config, head_dim),
        tie_word_embeddings=config.flag("tie_word_embeddings", False),
        stored_dtype=read_dtype(config),
        qkv_bias=qkv_bias,
        attention_out_bias=attention_out_bias,
        mlp_bias=mlp_bias,
        qk_norm=qk_norm,
        sliding_window=sliding_window,
    )


def _qwen_window(config: ConfigJson) -> int | None:
    """Qwen slides the attention of layers from `max_window_layers` on, and only when switched on."""
    if not config.flag("use_sliding_window", False) or "sliding_window" not in config:
        return None
    if "layer_types" in config:
        slides = "sliding_attention" in config.strings("layer_types")
    else:
        slides = config.size("max_window_layers", 28) < config.size("num_hidden_layers")
    return config.size("sliding_window") if slides else None


def llama_spec(config: ConfigJson) -> DecoderSpec:
    """`LlamaForCausalLM`."""
    bias = config.flag("attention_bias", False)
    return _rotary_decoder(config, qkv_bias=bias, attention_out_bias=bias, mlp_bias=config.flag("mlp_bias", False))


def mistral_spec(config: ConfigJson) -> DecoderSpec:
    """`MistralForCausalLM`: Llama with an optional sliding window on all layers."""
    window = config.size("sliding_window") if "sliding_window" in config else None
    return _rotary_decoder(config, sliding_window=window)


def qwen2_spec(config: ConfigJson) -> DecoderSpec:
    """`Qwen2ForCausalLM` (Qwen 2 and 2.5): biases on query, key and value."""
    return _rotary_decoder(config, qkv_bias=True, sliding_window=_qwen_window(config))


def qwen3_spec(config: ConfigJson) -> DecoderSpec:
    """`Qwen3ForCausalLM`: normalised query and key heads, head_dim of its own."""
    bias = config.flag("attention_bias", False)
    return _rotary_decoder(
        config,
        default_head_dim=128,
        qkv_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
        sliding_window=_qwen_window(config),
    )
