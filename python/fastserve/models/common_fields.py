"""Fields of config.json that all families share."""

from typing import Literal, cast

from fastserve.models.config_json import ConfigJson

ACTIVATIONS = {
    "silu": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
DTYPES = ("float32", "bfloat16", "float16")


def read_activation(config: ConfigJson, name: str, default: str) -> Literal["silu", "relu", "gelu", "gelu_tanh"]:
    """The kernel's name of the activation that a field names."""
    activation = config.text(name, default)
    if activation not in ACTIVATIONS:
        raise config.error(name, f"is not a supported activation (supported: {', '.join(ACTIVATIONS)})")
    return cast(Literal["silu", "relu", "gelu", "gelu_tanh"], ACTIVATIONS[activation])


def read_dtype(config: ConfigJson) -> Literal["float32", "bfloat16", "float16"]:
    """The type weights are stored in: `dtype` (transformers 5) or `torch_dtype`; float32 when neither is given."""
    name = "dtype" if "dtype" in config else "torch_dtype"
    dtype = config.text(name, "float32")
    if dtype not in DTYPES:
        raise config.error(name, f"is not a supported type (supported: {', '.join(DTYPES)})")
    return cast(Literal["float32", "bfloat16", "float16"], dtype)
