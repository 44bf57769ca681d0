"""The model argument turned into a decoder that can run: resolve, read the config, load the weights."""

from dataclasses import dataclass
from pathlib import Path

import torch

from fastserve.config import ModelConfig
from fastserve.distributed.group import Group
from fastserve.distributed.single import SINGLE
from fastserve.layers.weights import WeightSource
from fastserve.loader.checkpoint import CheckpointWeights, Progress, stored_dtype
from fastserve.loader.dummy import DummyWeights
from fastserve.loader.memory import check_memory
from fastserve.loader.resolve import model_files
from fastserve.models.build import build_decoder
from fastserve.models.decoder import Decoder
from fastserve.models.registry import read_spec
from fastserve.models.shard import WHOLE, Shard
from fastserve.models.spec import DecoderSpec, resolve_max_model_len

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class ModelOutline:
    """Facts about a model before its weights are read: from `config.json` and the settings.

    Attributes:
        folder: of the checkpoint.
        max_model_len: longest prompt + output, tokens.
        dtype: of the weights in memory.
    """

    folder: Path
    spec: DecoderSpec
    max_model_len: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A decoder and the facts about it that the rest of the engine needs.

    Attributes:
        spec: as this rank has the decoder; see `local_spec`.
        folder: of the checkpoint, where the tokenizer's files lie as well.
        eos_token_ids: tokens that end a sequence; may be empty.
        max_model_len: longest prompt + output, tokens.
    """

    decoder: Decoder
    spec: DecoderSpec
    folder: Path
    eos_token_ids: tuple[int, ...]
    max_model_len: int
    dtype: torch.dtype
    device: torch.device


def outline_model(model_config: ModelConfig) -> ModelOutline:
    """Find the model of a configuration and read what it is.

    Raises:
        CheckpointError: the checkpoint cannot be found or is of a kind that is not supported.
        InvalidArgumentError: max_model_len is beyond what the model can do.
    """
    folder = model_files(model_config).get()
    spec = read_spec(folder)
    max_model_len = resolve_max_model_len(spec, model_config.max_model_len)
    return ModelOutline(folder, spec, max_model_len, _dtype(model_config, spec, folder))


def _dtype(model_config: ModelConfig, spec: DecoderSpec, folder: Path) -> torch.dtype:
    """Return the data type to run in: the requested one, else that of config.json, else that of the weights."""
    if model_config.dtype != "auto":
        return DTYPES[model_config.dtype]
    if spec.stored_dtype is not None:
        return DTYPES[spec.stored_dtype]
    found = torch.float32 if model_config.load_format == "dummy" else stored_dtype(folder)
    return found if found in DTYPES.values() else torch.float32


def load_model(
    model_config: ModelConfig,
    *,
    device: torch.device = CPU,
    shard: Shard = WHOLE,
    group: Group = SINGLE,
    world: Group = SINGLE,
    progress: Progress | None = None,
    outline: ModelOutline | None = None,
) -> LoadedModel:
    """Load the model of a configuration, or what one rank has of it.

    Args:
        device: where the weights go; `ModelConfig.device` is for the caller, who owns the device.
        shard, group: see `build_decoder`.
        world: the ranks that load at the same time and share the memory of this machine.
        progress: called for each tensor with its name, bytes done and bytes of all; not for dummy weights.
        outline: of the same configuration, where the caller has it already.
    Raises:
        CheckpointError: the checkpoint cannot be found, is broken or is of a kind that is not supported.
        InvalidArgumentError: max_model_len is beyond what the model can do, or the model cannot be shared like this.
    """
    outline = outline or outline_model(model_config)
    folder, spec, max_model_len, dtype = outline.folder, outline.spec, outline.max_model_len, outline.dtype
    check_memory(folder, spec, shard, world, max_model_len=max_model_len, dtype=dtype, device=device)

    def build(source: WeightSource) -> Decoder:
        return build_decoder(spec, source, shard, group, max_model_len=max_model_len, dtype=dtype, device=device)

    with torch.inference_mode():
        if model_config.load_format == "dummy":
            decoder = build(DummyWeights(model_config.seed))
        else:
            with CheckpointWeights(folder, ignored=spec.names.ignored, progress=progress) as source:
                decoder = build(source)
                source.check_all_read()
    return LoadedModel(decoder, decoder.spec, folder, spec.eos_token_ids, max_model_len, dtype, device)
