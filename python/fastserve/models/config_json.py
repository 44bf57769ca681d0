"""config.json, read field by field: every complaint names the file, the field, the value and the rule."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeGuard

from fastserve.errors import CheckpointError
from fastserve.models.json_file import read_json_object

MAX_SIZE = 2**31 - 1
NO_TOKEN = -1  # how some checkpoints say that there is no such token


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


class ConfigJson:
    """A JSON object of a checkpoint folder. A field that is null counts as absent.

    It knows which fields were asked for: see `unread`.

    Args:
        path: the file, for messages.
        values: the object.
        prefix: where the object lies in the file, for messages: "rope_scaling." for example.
    """

    def __init__(self, path: Path, values: Mapping[str, object], prefix: str = "") -> None:
        self.path = path
        self._values = values
        self._prefix = prefix
        self._seen: set[str] = set()
        self._sections: list[ConfigJson] = []

    @classmethod
    def read(cls, path: Path) -> "ConfigJson":
        """Read a file that holds one JSON object.

        Raises:
            CheckpointError: it cannot be read, is too large, or is not a JSON object.
        """
        return cls(path, read_json_object(path))

    def __contains__(self, name: str) -> bool:
        return self.raw(name) is not None

    def raw(self, name: str) -> object:
        """The value as JSON gave it; None when absent."""
        self._seen.add(name)
        return self._values.get(name)

    def mentions(self, name: str) -> bool:
        """Whether the field is there at all, be it null."""
        return name in self._values

    def skip(self, *names: str) -> None:
        """Count fields as read: what they say has no meaning beside the other fields, or is found out otherwise."""
        self._seen.update(names)

    def unread(self) -> "Iterator[tuple[ConfigJson, str]]":
        """Fields with a value, here and in the sections that were read, that nothing has asked for so far."""
        for name, value in self._values.items():
            if value is not None and name not in self._seen:
                yield self, name
        for section in self._sections:
            yield from section.unread()

    def path_of(self, name: str) -> str:
        """A field's place in the file: "rope_scaling.factor" for example."""
        return self._prefix + name

    def error(self, name: str, rule: str) -> CheckpointError:
        """An error to raise about a field: `rule` says what it must be and what to do."""
        value = self.raw(name)
        found = "it is absent" if value is None else f"found {value!r:.200}"
        return CheckpointError(f"{self.path}: {self.path_of(name)} {rule}, {found}")

    def size(self, name: str, default: int | None = None) -> int:
        """A count or dimension, 1 or more."""
        value = self.raw(name)
        if value is None and default is not None:
            return default
        if not _is_int(value) or not 1 <= value <= MAX_SIZE:
            raise self.error(name, "must be an integer of at least 1")
        return value

    def count(self, name: str, default: int) -> int:
        """A number of things, 0 or more."""
        value = self.raw(name)
        if value is None:
            return default
        if not _is_int(value) or not 0 <= value <= MAX_SIZE:
            raise self.error(name, "must be an integer of at least 0")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive, finite number."""
        value = self.raw(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0.0 < value < 1e30:
            raise self.error(name, "must be a positive number")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """A boolean."""
        value = self.raw(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self.raw(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.error(name, "must be a string")
        return value

    def strings(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty when absent."""
        value = self.raw(name)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(name, "must be a list of strings")
        return tuple(value)

    def token_ids(self, name: str) -> tuple[int, ...]:
        """One token id or a list of them; empty when absent, or -1 for no token."""
        value = self.raw(name)
        if value is None or value == NO_TOKEN:
            return ()
        ids = value if isinstance(value, list) else [value]
        if not all(_is_int(item) and 0 <= item <= MAX_SIZE for item in ids):
            raise self.error(name, "must be a token id or a list of token ids")
        return tuple(ids)

    def section(self, name: str) -> "ConfigJson | None":
        """A nested object; None when absent."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(name, "must be an object")
        self._sections.append(ConfigJson(self.path, value, f"{self.path_of(name)}."))
        return self._sections[-1]

    def sections(self) -> tuple[str, ...]:
        """Names of the nested objects."""
        return tuple(name for name, value in self._values.items() if isinstance(value, dict))

    def require_value(self, name: str, supported: object, *, default: object) -> None:
        """Raise unless the field, or its default when absent, has the one value that is supported."""
        value = self.raw(name)
        if (default if value is None else value) != supported:
            raise self.error(name, f"is supported only with the value {supported!r}")
