"""From a checkpoint folder to a `DecoderSpec`. Only JSON is read: no code of a checkpoint ever runs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fastserve.errors import CheckpointError
from fastserve.models.config_json import ConfigJson
from fastserve.models.llama import llama_spec, mistral_spec, qwen2_spec, qwen3_spec
from fastserve.models.opt import opt_spec
from fastserve.models.spec import DecoderSpec
from fastserve.models.unknown_fields import check_unread_fields

ARCHITECTURES: dict[str, Callable[[ConfigJson], DecoderSpec]] = {
    "LlamaForCausalLM": llama_spec,
    "MistralForCausalLM": mistral_spec,
    "OPTForCausalLM": opt_spec,
    "Qwen2ForCausalLM": qwen2_spec,
    "Qwen3ForCausalLM": qwen3_spec,
}

# What the attention kernels take.
HEAD_DIM_STEP, MIN_HEAD_DIM, MAX_HEAD_DIM = 8, 32, 256


def _eos_token_ids(folder: Path, config: ConfigJson, vocab_size: int) -> tuple[int, ...]:
    """The end tokens of config.json and generation_config.json together; ids that the model cannot produce are left out."""
    path = folder / "generation_config.json"
    ids = ConfigJson.read(path).token_ids("eos_token_id") if path.is_file() else ()
    return tuple(dict.fromkeys(i for i in (*ids, *config.token_ids("eos_token_id")) if i < vocab_size))


def _family(config: ConfigJson) -> Callable[[ConfigJson], DecoderSpec]:
    """Return the reader of this architecture; the base class of one ("LlamaModel") is the same decoder, saved without its head."""
    names = config.strings("architectures")
    name = names[0] if len(names) == 1 else ""
    if name.endswith("Model"):
        name = name.removesuffix("Model") + "ForCausalLM"
    if name not in ARCHITECTURES:
        raise config.error("architectures", f"must be one of {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]


def read_spec(folder: Path) -> DecoderSpec:
    """Return the spec of the model in a checkpoint folder.

    Raises:
        CheckpointError: config.json is missing or broken, or asks for something that is not supported; the message
            names the field, its value and what is supported.
    """
    config = ConfigJson.read(folder / "config.json")
    family = _family(config)
    if config.raw("quantization_config"):
        raise config.error("quantization_config", "is not supported: use a checkpoint with unquantised weights")
    spec = family(config)
    if not MIN_HEAD_DIM <= spec.head_dim <= MAX_HEAD_DIM or spec.head_dim % HEAD_DIM_STEP != 0:
        rule = f"a multiple of {HEAD_DIM_STEP} between {MIN_HEAD_DIM} and {MAX_HEAD_DIM}"
        raise CheckpointError(f"{config.path}: attention heads must have a size that is {rule}, found {spec.head_dim}")
    spec = replace(spec, eos_token_ids=_eos_token_ids(folder, config, spec.vocab_size))
    check_unread_fields(config)
    return spec
