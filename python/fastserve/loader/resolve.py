"""From the model argument to a folder on this machine."""

import os
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from fastserve.errors import CheckpointError
from fastserve.loader.checkpoint import weight_files
from fastserve.log import get_logger

logger = get_logger(__name__)

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
WEIGHTS = "model*.safetensors"
WANTED = ("*.json", WEIGHTS, "*.jinja", "*.model", "merges.txt")
TRUE_WORDS = ("1", "on", "true", "yes")


def _downloads_allowed() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() not in TRUE_WORDS


def _is_complete(folder: Path, need_weights: bool) -> bool:
    if not (folder / "config.json").is_file():
        return False
    try:
        return not need_weights or bool(weight_files(folder))
    except CheckpointError:
        return False


def _no_such_model(model: str) -> CheckpointError:
    return CheckpointError(
        f"model must be a folder or a hub id (organisation/name), got {model!r:.200}: no such folder"
    )


def _cached(model: str, cache_folder: Path | None) -> Path | None:
    try:
        return Path(snapshot_download(model, cache_dir=cache_folder, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise _no_such_model(model) from error


def _from_hub(model: str, need_weights: bool, cache_folder: Path | None) -> Path:
    folder = _cached(model, cache_folder)
    if folder is not None and _is_complete(folder, need_weights):
        return folder
    state = "is not in the local Hugging Face cache" if folder is None else f"is incomplete in {folder}"
    remedy = f"get it once with `hf download {model}` on a machine with network access, or give the path of a folder"
    if not _downloads_allowed():
        raise CheckpointError(f"model {model} {state}, and HF_HUB_OFFLINE forbids a download; {remedy}")
    logger.info("model %s %s: downloading", model, state)
    wanted = [pattern for pattern in WANTED if need_weights or pattern != WEIGHTS]
    try:
        return Path(snapshot_download(model, cache_dir=cache_folder, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            f"model {model} {state}, and it cannot be downloaded ({error!s:.300}); {remedy}"
        ) from error


def resolve_model(model: str, *, need_weights: bool = True, cache_folder: Path | None = None) -> Path:
    """Return the folder of a checkpoint.

    Args:
        model: path of a folder, or a hub id: it is looked up in the local Hugging Face cache, and downloaded only
            when it is not there whole and the environment does not set HF_HUB_OFFLINE.
        need_weights: False when config.json is enough (dummy weights).
        cache_folder: of the hub; None = Hugging Face's default.
    Raises:
        CheckpointError: there is no such checkpoint here; the message says how to get it.
    """
    folder = Path(model).expanduser()
    if model and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} has no config.json: give the folder of a Hugging Face checkpoint")
        return folder
    if not HUB_ID.fullmatch(model):
        raise _no_such_model(model)
    return _from_hub(model, need_weights, cache_folder)
