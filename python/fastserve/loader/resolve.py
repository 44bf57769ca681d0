"""From the model argument, a folder or a hub id, to a folder on this machine.

huggingface_hub takes its time to import and is not needed for folders, so it is imported where a hub id is met.
"""

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from fastserve.config import ModelConfig
from fastserve.errors import CheckpointError, FastServeError, InvalidArgumentError
from fastserve.loader.kind import why_not_loadable
from fastserve.loader.weight_files import weight_files
from fastserve.log import get_logger

logger = get_logger(__name__)

HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
TEXT_FILES = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")
WEIGHT_FILES = ("model*.safetensors",)
# Each is enough to make a tokenizer of.
TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt")
TRUE_WORDS = ("1", "on", "true", "yes")


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedFiles:
    """Files of a model or of a tokenizer.

    Attributes:
        what: "model" or "tokenizer".
        name: path of a folder, or a hub id.
        need_weights: False when the JSON files are enough.
        need_tokenizer: whether a cached folder without a tokenizer is not whole; other programs leave such.
        revision: branch, tag or commit of a hub id; None = its main branch.
        cache_folder: where downloads are kept; None = Hugging Face's own place.
    """

    what: str
    name: str
    need_weights: bool
    need_tokenizer: bool = False
    revision: str | None = None
    cache_folder: Path | None = None

    def find(self) -> Path | None:
        """The folder with all of them, if it is on this machine; None when they have to be downloaded.

        Raises:
            CheckpointError: the name stands for something else; the message says for what.
            InvalidArgumentError: there is no such tokenizer.
        """
        path = Path(self.name).expanduser()
        if self.name and path.is_dir():
            names = [entry.name for entry in path.iterdir()]
            if self.what == "model" and (reason := why_not_loadable(str(path), names, need_weights=False)):
                raise CheckpointError(reason)
            return path
        if self.name and path.is_file():
            kind = "a GGUF file, which is not supported" if path.suffix.lower() == ".gguf" else "a file"
            raise CheckpointError(
                f"{self.what} must be a folder with config.json and safetensors weights, or a hub id"
                f" (organisation/name), and {path} is {kind}"
            )
        if not HUB_ID.fullmatch(self.name):
            raise self._no_such_folder()
        folder = self._cached()
        return folder if folder is not None and self._is_complete(folder) else None

    def get(self) -> Path:
        """Return the folder with all files. Missing files are downloaded, unless HF_HUB_OFFLINE is set.

        Raises:
            CheckpointError: there are no such files, or they are of a kind that cannot be loaded; the message says why.
        """
        return self.find() or self._download()

    @property
    def _patterns(self) -> list[str]:
        return [*TEXT_FILES, *(WEIGHT_FILES if self.need_weights else ())]

    @property
    def _label(self) -> str:
        return f"{self.what} {self.name}" + (f" (revision {self.revision})" if self.revision else "")

    def _no_such_folder(self) -> FastServeError:
        message = (
            f"{self.what} must be a folder or a hub id (organisation/name), got {self.name!r:.200}: no such folder"
        )
        return CheckpointError(message) if self.what == "model" else InvalidArgumentError(message)

    def _snapshot(self, *, local_only: bool) -> Path:
        from huggingface_hub import snapshot_download

        folder = snapshot_download(
            self.name,
            revision=self.revision,
            cache_dir=self.cache_folder,
            allow_patterns=self._patterns,
            local_files_only=local_only,
        )
        return Path(folder)

    def _cached(self) -> Path | None:
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            return self._snapshot(local_only=True)
        except LocalEntryNotFoundError:
            return None
        except HFValidationError as error:
            raise self._no_such_folder() from error

    def _is_complete(self, folder: Path) -> bool:
        if self.need_tokenizer and not any(
            fnmatch(name, pattern) for name in os.listdir(folder) for pattern in TOKENIZER_FILES
        ):
            return False
        if self.what != "model":
            return True
        try:
            return (folder / "config.json").is_file() and (not self.need_weights or bool(weight_files(folder)))
        except CheckpointError:
            return False

    def _download(self) -> Path:
        remedy = (
            f"get it once with `hf download {self.name}` on a machine with network access, or give the path of a folder"
        )
        if os.environ.get("HF_HUB_OFFLINE", "").lower() in TRUE_WORDS:
            raise CheckpointError(
                f"{self._label} is not, or not whole, in the local Hugging Face cache, and HF_HUB_OFFLINE forbids a"
                f" download; {remedy}"
            )
        from huggingface_hub import HfApi

        try:
            files = HfApi().list_repo_files(self.name, revision=self.revision)
            names = [file for file in files if "/" not in file]
            if self.what == "model" and (
                reason := why_not_loadable(self._label, names, need_weights=self.need_weights)
            ):
                raise CheckpointError(reason)
            logger.info("%s is not in the local Hugging Face cache: downloading", self._label)
            folder = self._snapshot(local_only=False)
        except CheckpointError:
            raise
        except Exception as error:  # of the hub's client and of the HTTP client under it, which differ by version
            raise CheckpointError(f"{self._label} cannot be downloaded: {_reason(error)}; {remedy}") from error
        if self.what == "model" and self.need_weights:
            weight_files(folder)
        logger.info("%s is in %s", self._label, folder)
        return folder


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return "its owner asks for an agreement; accept it on the hub and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has none of this name, or it is private; check the name, or log in with `hf auth login`"
    if isinstance(error, RevisionNotFoundError):
        return "the hub does not have this revision"
    return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"


def model_files(config: ModelConfig, *, need_tokenizer: bool = False) -> WantedFiles:
    """What is wanted of the model of a configuration."""
    return WantedFiles(
        what="model",
        name=config.model,
        need_weights=config.load_format != "dummy",
        need_tokenizer=need_tokenizer,
        revision=config.revision or None,
        cache_folder=_cache_folder(config),
    )


def tokenizer_files(config: ModelConfig) -> WantedFiles | None:
    """What is wanted of a tokenizer of its own; None when it is the model's."""
    if config.tokenizer is None:
        return None
    return WantedFiles(
        what="tokenizer",
        name=config.tokenizer,
        need_weights=False,
        need_tokenizer=True,
        cache_folder=_cache_folder(config),
    )


def _cache_folder(config: ModelConfig) -> Path | None:
    return None if config.download_dir is None else Path(config.download_dir).expanduser()
