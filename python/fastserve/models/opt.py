"""OPT (Zhang et al., 2022, arXiv:2205.01068): learned positions, layer norms, biases everywhere."""

from fastserve.models.common_fields import read_activation, read_dtype
from fastserve.models.config_json import ConfigJson
from fastserve.models.spec import DecoderSpec, WeightNames

NORM_EPS = 1e-5
POSITION_OFFSET = 2

NAMES = WeightNames(
    roots=("model.decoder.", "decoder."),
    final_norm="final_layer_norm",
    attention_norm="self_attn_layer_norm",
    attention_out="self_attn.out_proj",
    mlp_norm="final_layer_norm",
    mlp_up=("fc1",),
    mlp_down="fc2",
    ignored=(r"(model\.)?decoder\.version",),
)


def opt_spec(config: ConfigJson) -> DecoderSpec:
    """`OPTForCausalLM`, OPT-350m (norms after the blocks, narrow embedding) included."""
    hidden_size = config.size("hidden_size")
    num_heads = config.size("num_attention_heads")
    if hidden_size % num_heads != 0:
        raise config.error("num_attention_heads", f"must divide hidden_size ({hidden_size})")
    config.require_value("layer_norm_elementwise_affine", True, default=True)
    config.require_value("_remove_final_layer_norm", False, default=False)
    bias = config.flag("enable_bias", True)
    return DecoderSpec(
        architecture=config.strings("architectures")[0],
        num_layers=config.size("num_hidden_layers"),
        hidden_size=hidden_size,
        embedding_size=config.size("word_embed_proj_dim", hidden_size),
        intermediate_size=config.size("ffn_dim"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        vocab_size=config.size("vocab_size"),
        max_position=config.size("max_position_embeddings"),
        norm="layer",
        norm_eps=NORM_EPS,
        pre_norm=config.flag("do_layer_norm_before", True),
        activation=read_activation(config, "activation_function", "relu"),
        gated=False,
        qkv_bias=bias,
        attention_out_bias=bias,
        mlp_bias=bias,
        position_offset=POSITION_OFFSET,
        tie_word_embeddings=config.flag("tie_word_embeddings", True),
        stored_dtype=read_dtype(config),
        names=NAMES,
    )
