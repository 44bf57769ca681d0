"""Checkpoint folders of the right shape and no weights: a config.json for `--load-format dummy`."""

import json
from pathlib import Path

_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5, "hidden_act": "silu",
    "rope_theta": 500000.0, "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False,
    "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_OPT = {
    "architectures": ["OPTForCausalLM"], "model_type": "opt", "activation_function": "relu", "do_layer_norm_before": True,
    "enable_bias": True, "layer_norm_elementwise_affine": True, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "bos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip

ITEM_BYTES = {"bfloat16": 2, "float32": 4}
SHAPES = {
    "llama-3-8b": _LLAMA
    | {"vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
       "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 8192},
    "opt-13b": _OPT
    | {"vocab_size": 50272, "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40, "ffn_dim": 20480,
       "word_embed_proj_dim": 5120, "max_position_embeddings": 2048},
    "tiny": _LLAMA
    | {"vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
       "intermediate_size": 128, "max_position_embeddings": 512, "torch_dtype": "float32"},
}  # fmt: skip


def write_shape(folder: Path, name: str, *, num_layers: int | None = None) -> Path:
    """Write the config.json of a shape, with fewer layers if asked; returns the folder."""
    config = dict(SHAPES[name])
    if num_layers is not None:
        config["num_hidden_layers"] = num_layers
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    return folder


def weight_bytes(shape: str, layers: int) -> int:
    """Bytes of the weights that a decode step reads: all matrices of all layers, and the head."""
    config = SHAPES[shape]
    hidden, inner = config["hidden_size"], config.get("intermediate_size", config.get("ffn_dim"))
    head_dim = hidden // config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", config["num_attention_heads"])
    attention = 2 * hidden * (hidden + kv_heads * head_dim)
    feed_forward = (3 if config["model_type"] == "llama" else 2) * hidden * inner
    count = layers * (attention + feed_forward) + config["vocab_size"] * hidden
    return count * ITEM_BYTES[config["torch_dtype"]]
