"""What the frontend determines before an engine starts: files, tokenizer and default sampling parameters."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from fastserve.config import EngineConfig
from fastserve.loader.download import download
from fastserve.loader.resolve import WantedFiles, model_files, tokenizer_files
from fastserve.models.generation_config import generation_config_path, read_end_tokens, read_sampling_defaults
from fastserve.tokenizer import Tokenizer, load_tokenizer
from fastserve.types import EngineInfo, SamplingDefaults


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration whose files are all on this machine.

    Attributes:
        config: for the engine: folders in place of hub ids, and the end tokens that it does not find itself.
        tokenizer: of the model.
        defaults: for requests that leave sampling fields out.
    """

    config: EngineConfig
    tokenizer: Tokenizer
    defaults: SamplingDefaults


def prepare(config: EngineConfig) -> Prepared:
    """Find, or download, the files of a model and read what the frontend needs of them.

    Raises:
        CheckpointError: there is no such model, or it cannot be used; the message says why.
        InvalidArgumentError: an option does not fit the model, or it has no tokenizer.
    """
    tokenizer = tokenizer_files(config.model)
    model = model_files(config.model, need_tokenizer=tokenizer is None)
    return _read(config, model.get(), None if tokenizer is None else tokenizer.get())


async def prepare_async(config: EngineConfig) -> Prepared:
    """As `prepare`, without blocking the loop; a download ends at once when the caller is cancelled."""
    tokenizer = tokenizer_files(config.model)
    folder = await _get(model_files(config.model, need_tokenizer=tokenizer is None))
    tokenizer_folder = None if tokenizer is None else await _get(tokenizer)
    return await asyncio.to_thread(_read, config, folder, tokenizer_folder)


def named_as_asked(info: EngineInfo, config: EngineConfig) -> EngineInfo:
    """The engine's facts with the model under the name that its user gave."""
    return replace(info, model=config.model.model)


async def _get(wanted: WantedFiles) -> Path:
    return await asyncio.to_thread(wanted.find) or await download(wanted)


def _read(config: EngineConfig, folder: Path, tokenizer_folder: Path | None) -> Prepared:
    model = replace(config.model, model=str(folder), tokenizer=str(tokenizer_folder or folder))
    tokenizer = load_tokenizer(model)
    path = generation_config_path(config.model, folder)
    defaults = read_sampling_defaults(config.model, path)
    end_tokens = [*read_end_tokens(path), *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])]
    return Prepared(replace(config, model=model, eos_token_ids=tuple(end_tokens)), tokenizer, defaults)
