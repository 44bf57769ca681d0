"""Find and load the tokenizer of a checkpoint folder or of a model in the local Hugging Face cache."""

from collections.abc import Mapping
from pathlib import Path

import tokenizers
from tokenizers.processors import TemplateProcessing

from fastserve.config import ModelConfig
from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.log import get_logger
from fastserve.models.json_file import read_json_object
from fastserve.tokenizer.panics import panics_refused
from fastserve.tokenizer.tokenizer import Tokenizer

logger = get_logger(__name__)

_SPECIAL_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def load_tokenizer(model_config: ModelConfig) -> Tokenizer:
    """Load the tokenizer named by `tokenizer`, or by `model` when that is not set.

    Reads `tokenizer.json`; a folder without one (sentencepiece or vocabulary files only) is converted by
    transformers, which never runs code of the checkpoint here. Nothing is downloaded.

    Raises:
        InvalidArgumentError: no such folder, or no tokenizer in it.
        CheckpointError: one of its files is broken.
    """
    name = model_config.tokenizer or model_config.model
    folder = _find_folder(name)
    config = _read_json(folder / "tokenizer_config.json")
    special_tokens = _special_tokens(folder, config)
    path = folder / "tokenizer.json"
    if path.is_file():
        backend = _read_backend(path)
        _apply_bos_eos_switches(backend, config, special_tokens)
    else:
        backend, converted = _convert(folder)
        special_tokens = converted | special_tokens
    return Tokenizer(backend, special_tokens=special_tokens, chat_templates=_chat_templates(folder, config))


def _find_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    if not name or folder.is_absolute() or name.startswith("."):
        raise InvalidArgumentError(f"the tokenizer must be an existing folder or a cached hub id, got {name!r}")
    from huggingface_hub import snapshot_download  # heavy, and not needed for folders
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise InvalidArgumentError(
            f"the tokenizer {name!r} is neither a folder nor in the local Hugging Face cache; download it first"
        ) from error


def _read_json(path: Path) -> dict[str, object]:
    return read_json_object(path) if path.is_file() else {}


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    try:
        with panics_refused("its own file"):
            return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise CheckpointError(f"{path} is not a tokenizer that can be read: {error!s:.300}") from error


def _special_tokens(folder: Path, config: Mapping[str, object]) -> dict[str, str]:
    """Special tokens by role; tokenizer_config.json wins over special_tokens_map.json."""
    merged = _read_json(folder / "special_tokens_map.json") | {k: v for k, v in config.items() if v is not None}
    found: dict[str, str] = {}
    for role in _SPECIAL_ROLES:
        value = merged.get(role)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            found[role] = value
    return found


def _apply_bos_eos_switches(
    backend: tokenizers.Tokenizer, config: Mapping[str, object], special_tokens: Mapping[str, str]
) -> None:
    """An explicit `add_bos_token` or `add_eos_token` overrules what tokenizer.json adds, as in transformers."""
    if "add_bos_token" not in config and "add_eos_token" not in config:
        return
    template = ["$A"]
    used: list[tuple[str, int]] = []
    for switch, role, position in (("add_bos_token", "bos_token", 0), ("add_eos_token", "eos_token", 2)):
        token = special_tokens.get(role)
        token_id = None if token is None else backend.token_to_id(token)
        if config.get(switch) and token is not None and token_id is not None:
            template.insert(position, token)
            used.append((token, token_id))
    backend.post_processor = TemplateProcessing(single=template, special_tokens=used)


def _convert(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    from transformers import AutoTokenizer  # seconds to import; only for folders without tokenizer.json

    try:
        converted = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises a wide range of types here
        raise InvalidArgumentError(
            f"{folder} holds no tokenizer that can be read: {error}; it needs a tokenizer.json, or a sentencepiece file"
            " and `pip install fastserve[sentencepiece]`"
        ) from error
    backend = getattr(converted, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise InvalidArgumentError(
            f"the tokenizer of {folder} ({type(converted).__name__}) has no tokenizer.json form; convert it once with"
            " transformers and save it"
        )
    logger.info("converted the tokenizer of %s; save it as tokenizer.json for a faster start", folder)
    found = {role: getattr(converted, role, None) for role in _SPECIAL_ROLES}
    return backend, {role: str(token) for role, token in found.items() if token is not None}


def _chat_templates(folder: Path, config: Mapping[str, object]) -> dict[str, str]:
    """Templates by name; chat_template.jinja wins over chat_template.json over tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return {"default": path.read_text(encoding="utf-8")}
    found = _read_json(folder / "chat_template.json").get("chat_template") or config.get("chat_template")
    if isinstance(found, str):
        return {"default": found}
    if not isinstance(found, list):
        return {}
    named = [entry for entry in found if isinstance(entry, dict)]
    return {str(entry.get("name")): str(entry.get("template")) for entry in named}
