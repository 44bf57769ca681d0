"""Flags whose value is a JSON object, given key by key: `--override-generation-config.temperature 0.5`."""

import json
import re
from collections.abc import Sequence
from typing import Any

from fastserve.errors import InvalidArgumentError

# --flag.key.key, with + where a value is added to a list, and with the value behind = or as the next word.
_KEYED = re.compile(r"(--?[A-Za-z][\w-]*)\.([\w-]+(?:\.[\w-]+)*)(\+)?(?:=(.*))?", re.DOTALL)


def join_json_flags(words: Sequence[str]) -> list[str]:
    """Return the words with one JSON object in place of all that give a flag key by key.

    Raises:
        InvalidArgumentError: the last word lacks its value, or two keys contradict each other.
    """
    others: list[str] = []
    objects: dict[str, dict[str, Any]] = {}
    rest = iter(words)
    for word in rest:
        found = _KEYED.fullmatch(word)
        if found is None:
            others.append(word)
            continue
        flag, path, adds, text = found.groups()
        if text is None and (text := next(rest, None)) is None:
            raise InvalidArgumentError(f"{word} must have a value")
        name = flag.replace("_", "-") if flag.startswith("--") else flag
        _put(objects.setdefault(name, {}), path.split("."), _value(text), adds=adds is not None, word=word)
    # In front: MODEL may follow, and a flag of several values takes all words behind it.
    return [word for flag, value in objects.items() for word in (flag, json.dumps(value))] + others


def _put(target: dict[str, Any], path: list[str], value: object, *, adds: bool, word: str) -> None:
    for key in path[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            raise InvalidArgumentError(f"{word:.200} contradicts another flag: {key} is a value and an object")
    if not adds:
        target[path[-1]] = value
        return
    values = target.setdefault(path[-1], [])
    if not isinstance(values, list):
        raise InvalidArgumentError(f"{word:.200} contradicts another flag: {path[-1]} is one value and several")
    values.extend(_value(part) for part in value.split(",")) if isinstance(value, str) else values.append(value)


def _value(text: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
