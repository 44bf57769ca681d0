"""Llama 2 and 3, and the families built like it: Mistral, Qwen2, Qwen3."""

from fastserve.models.common_fields import read_activation, read_dtype, read_layer_types
from fastserve.models.config_json import ConfigJson
from fastserve.models.rope_config import read_rope
from fastserve.models.spec import DecoderSpec

# Where config.json does not mention the field at all, as in transformers; null has another meaning.
MISTRAL_KV_HEADS, MISTRAL_WINDOW = 8, 4096
QWEN_KV_HEADS = 32


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
    default_kv_heads: int | None = None,
    qkv_bias: bool = False,
    attention_out_bias: bool = False,
    mlp_bias: bool = False,
    qk_norm: bool = False,
    sliding_window: int | None = None,
) -> DecoderSpec:
    num_heads = config.size("num_attention_heads")
    if default_kv_heads is None or config.mentions("num_key_value_heads"):
        default_kv_heads = num_heads
    num_kv_heads = config.size("num_key_value_heads", default_kv_heads)
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
    config.skip("sliding_window", "max_window_layers")
    types = read_layer_types(config)
    if not config.flag("use_sliding_window", False) or "sliding_window" not in config:
        return None
    if types:
        slides = "sliding_attention" in types
    else:
        slides = config.count("max_window_layers", 28) < config.size("num_hidden_layers")
    return config.size("sliding_window") if slides else None


def llama_spec(config: ConfigJson) -> DecoderSpec:
    """`LlamaForCausalLM`."""
    bias = config.flag("attention_bias", False)
    return _rotary_decoder(config, qkv_bias=bias, attention_out_bias=bias, mlp_bias=config.flag("mlp_bias", False))


def mistral_spec(config: ConfigJson) -> DecoderSpec:
    """`MistralForCausalLM`: Llama with an optional sliding window, on all layers whatever `layer_types` says."""
    read_layer_types(config)
    has_window = "sliding_window" in config or not config.mentions("sliding_window")
    window = config.size("sliding_window", MISTRAL_WINDOW) if has_window else None
    return _rotary_decoder(config, default_kv_heads=MISTRAL_KV_HEADS, sliding_window=window)


def qwen2_spec(config: ConfigJson) -> DecoderSpec:
    """`Qwen2ForCausalLM` (Qwen 2 and 2.5): biases on query, key and value."""
    config.skip("attention_bias")  # the biases are fixed; a file that lacks one is refused when it is read
    return _rotary_decoder(config, default_kv_heads=QWEN_KV_HEADS, qkv_bias=True, sliding_window=_qwen_window(config))


def qwen3_spec(config: ConfigJson) -> DecoderSpec:
    """`Qwen3ForCausalLM`: normalised query and key heads, head_dim of its own."""
    bias = config.flag("attention_bias", False)
    config.skip("use_qk_norm")
    return _rotary_decoder(
        config,
        default_head_dim=128,
        default_kv_heads=QWEN_KV_HEADS,
        qkv_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
        sliding_window=_qwen_window(config),
    )
