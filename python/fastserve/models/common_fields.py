"""Fields of config.json that all families share."""

from typing import Literal, cast

from fastserve.models.config_json import ConfigJson

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
DTYPES = {
    "float32": "float32",
    "float": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
    "half": "float16",
}
LAYER_TYPES = {"full_attention", "sliding_attention"}


def read_activation(config: ConfigJson, name: str, default: str) -> Literal["silu", "relu", "gelu", "gelu_tanh"]:
    """The kernel's name of the activation that a field names."""
    activation = config.text(name, default)
    if activation not in ACTIVATIONS:
        raise config.error(name, f"is not a supported activation (supported: {', '.join(ACTIVATIONS)})")
    return cast(Literal["silu", "relu", "gelu", "gelu_tanh"], ACTIVATIONS[activation])


def read_dtype(config: ConfigJson) -> Literal["float32", "bfloat16", "float16"] | None:
    """The type weights are stored in: `dtype` (transformers 5) or `torch_dtype`; None when neither is given."""
    name = "dtype" if "dtype" in config else "torch_dtype"
    config.skip("torch_dtype")
    if name not in config:
        return None
    dtype = config.text(name).removeprefix("torch.")
    if dtype not in DTYPES:
        raise config.error(name, f"is not a supported type (supported: {', '.join(DTYPES)})")
    return cast(Literal["float32", "bfloat16", "float16"], DTYPES[dtype])


def read_layer_types(config: ConfigJson) -> frozenset[str]:
    """The kinds of attention that `layer_types` names; empty when absent."""
    types = frozenset(config.strings("layer_types"))
    if not types <= LAYER_TYPES:
        raise config.error("layer_types", f"must name {' and '.join(sorted(LAYER_TYPES))} only")
    return types
