"""Sampling defaults of generation_config.json, as vLLM applies them: `--generation-config auto|vllm|PATH`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastserve.config import ModelConfig
from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.log import get_logger
from fastserve.models.config_json import ConfigJson
from fastserve.models.json_file import read_json_object
from fastserve.types import RECOMMENDABLE, SamplingDefaults

logger = get_logger(__name__)

FILE = "generation_config.json"
FIELDS = tuple("max_new_tokens" if name == "max_tokens" else name for name in RECOMMENDABLE)
OFF = "--generation-config vllm starts without the values of the file"

# What transformers would do as well, and the values that ask for nothing; neither vLLM nor FastServe does it.
NOT_APPLIED: dict[str, tuple[object, ...]] = {
    "bad_words_ids": ([],),
    "begin_suppress_tokens": ([],),
    "encoder_repetition_penalty": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "exponential_decay_length_penalty": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "guidance_scale": (1,),
    "min_new_tokens": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "sequence_bias": ({},),
    "suppress_tokens": ([],),
    "top_h": (),
    "typical_p": (1,),
}


def generation_config_path(config: ModelConfig, folder: Path) -> Path | None:
    """Return the file that `--generation-config` chooses; None if there is none to read.

    Args:
        folder: of the checkpoint.
    Raises:
        InvalidArgumentError: the option names a file that does not exist.
    """
    match config.generation_config:
        case "vllm":
            return None
        case "auto":
            return folder / FILE if (folder / FILE).is_file() else None
        case name:
            path = Path(name).expanduser()
            path = path / FILE if path.is_dir() else path
            if not path.is_file():
                raise InvalidArgumentError(
                    f"generation_config must be auto, vllm, or the path of a {FILE} or of its folder, got {name!r:.200}"
                )
            return path


def read_end_tokens(path: Path | None) -> tuple[int, ...]:
    """The end tokens that a generation_config.json names; raises CheckpointError."""
    return () if path is None else ConfigJson.read(path).token_ids("eos_token_id")


def read_sampling_defaults(config: ModelConfig, path: Path | None) -> SamplingDefaults:
    """Return the defaults of sampling fields: the values of the file, replaced by those of the override.

    `max_new_tokens` of the model's own file is a default for chats; where an operator gave it, by a file of his or the
    override, it is the limit of every request as well. `do_sample` is not looked at. All of this is vLLM's way.

    Args:
        path: from `generation_config_path`.
    Raises:
        CheckpointError: a value of the file is out of range; the message names it and how to start without.
        InvalidArgumentError: a value of the override is, or its name is not known.
    """
    values = {} if path is None else read_json_object(path)
    override = config.override_generation_config or {}
    if unknown := sorted(override.keys() - set(FIELDS)):
        raise InvalidArgumentError(
            f"override_generation_config may have {', '.join(FIELDS)}, got {unknown[0]!r:.80}; leave it out"
        )
    try:
        _defaults(values)
    except InvalidArgumentError as error:
        raise CheckpointError(f"{path}: {_named(error)}; correct the file, or {OFF}") from error
    given_by_operator = override if config.generation_config in ("auto", "vllm") else values | override
    try:
        defaults = _defaults(values | override, limit=given_by_operator.get("max_new_tokens"))
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"override_generation_config: {_named(error)}") from error
    if path is not None:
        _warn_of_the_rest(path, values)
    if shown := _shown(defaults):
        source = " and ".join([str(path)] * (path is not None) + ["--override-generation-config"] * bool(override))
        logger.info("requests that leave these out get, by %s: %s (%s)", source, shown, OFF)
    return defaults


def _defaults(values: Mapping[str, object], *, limit: Any = None) -> SamplingDefaults:
    found: dict[str, Any] = {name: values[name] for name in FIELDS if values.get(name) is not None}
    if "max_new_tokens" in found:
        found["max_tokens"] = found.pop("max_new_tokens")
    return SamplingDefaults(**found, max_tokens_limit=limit)


def _named(error: InvalidArgumentError) -> str:
    return str(error).replace("max_tokens", "max_new_tokens")


def _shown(defaults: SamplingDefaults) -> str:
    parts = [f"{name} {value:g}" for name, value in defaults.given().items()]
    return ", ".join(parts + [f"at most {defaults.max_tokens_limit} tokens"] * (defaults.max_tokens_limit is not None))


def _warn_of_the_rest(path: Path, values: Mapping[str, object]) -> None:
    asked = [name for name, off in NOT_APPLIED.items() if values.get(name) is not None and values[name] not in off]
    if asked:
        logger.warning("%s asks for what is not supported and has no effect: %s", path, ", ".join(asked))
