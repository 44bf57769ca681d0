"""config.json, read field by field: every complaint names the file, the field, the value and the rule."""

import json
from collections.abc import Mapping
from pathlib import Path

from fastserve.errors import CheckpointError

MAX_SIZE = 2**31 - 1
MAX_FILE_BYTES = 16 << 20


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class ConfigJson:
    """A JSON object of a checkpoint folder. A field that is null counts as absent.

    Args:
        path: the file, for messages.
        values: the object.
        prefix: where the object lies in the file, for messages: "rope_scaling." for example.
    """

    def __init__(self, path: Path, values: Mapping[str, object], prefix: str = "") -> None:
        self.path = path
        self._values = values
        self._prefix = prefix

    @classmethod
    def read(cls, path: Path) -> "ConfigJson":
        """Read a file that holds one JSON object.

        Raises:
            CheckpointError: it cannot be read, is too large, or is not a JSON object.
        """
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise CheckpointError(f"{path} is larger than {MAX_FILE_BYTES} bytes: not a model configuration")
            values = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is not valid JSON ({error}); download the checkpoint again") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{path} must hold a JSON object, found {type(values).__name__}")
        return cls(path, values)

    def __contains__(self, name: str) -> bool:
        return self._values.get(name) is not None

    def raw(self, name: str) -> object:
        """The value as JSON gave it; None when absent."""
        return self._values.get(name)

    def error(self, name: str, rule: str) -> CheckpointError:
        """An error to raise about a field: `rule` says what it must be and what to do."""
        value = self._values.get(name)
        found = "it is absent" if value is None else f"found {value!r:.200}"
        return CheckpointError(f"{self.path}: {self._prefix}{name} {rule}, {found}")

    def size(self, name: str, default: int | None = None) -> int:
        """A count or dimension, 1 or more."""
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if not _is_int(value) or not 1 <= value <= MAX_SIZE:
            raise self.error(name, "must be an integer of at least 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive, finite number."""
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if not (_is_int(value) or isinstance(value, float)) or not 0.0 < value < 1e30:
            raise self.error(name, "must be a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._values.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.error(name, "must be a string")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty when absent."""
        value = self._values.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(name, "must be a list of strings")
        return tuple(value)

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them; empty when absent."""
        value = self._values.get(name)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        if not all(_is_int(item) and 0 <= item <= MAX_SIZE for item in ids):
            raise self.error(name, "must be a token id or a list of token ids")
        return tuple(ids)

    def section(self, name: str) -> "ConfigJson | None":
        """A nested object; None when absent."""
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, "must be an object")
        return ConfigJson(self.path, value, f"{self._prefix}{name}.")

    def require_value(self, name: str, supported: object, *, default: object) -> None:
        """Raise unless the field, or its default when absent, has the one value that is supported."""
        value = self._values.get(name)
        if (default if value is None else value) != supported:
            raise self.error(name, f"is supported only with the value {supported!r}")
