"""Keyword options -> EngineConfig."""

import difflib
from collections.abc import Mapping
from dataclasses import fields

from fastserve.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig, config_from
from fastserve.errors import InvalidArgumentError


def engine_config(model: str, options: Mapping[str, object]) -> EngineConfig:
    """Build the configuration of an engine from fields of its four parts, by name or alias.

    Raises:
        InvalidArgumentError: an unknown name (names close matches), a name given twice, or a value out of range.
    """
    values: dict[str, object] = {"model": model}
    names = _names()
    for option, value in options.items():
        name = names.get(option)
        if name is None:
            close = difflib.get_close_matches(option, names, n=3)
            hint = f"did you mean {' or '.join(close)}?" if close else f"known are {', '.join(sorted(names))}"
            raise InvalidArgumentError(f"unknown option {option!r}: {hint}")
        if name in values:
            raise InvalidArgumentError(f"option {name!r} must be given once, got it as {option!r} as well")
        values[name] = value
    return EngineConfig(
        model=config_from(ModelConfig, values),
        cache=config_from(CacheConfig, values),
        parallel=config_from(ParallelConfig, values),
        scheduler=config_from(SchedulerConfig, values),
    )


def _names() -> dict[str, str]:
    """Every name and alias of an option -> its field."""
    names: dict[str, str] = {}
    for part in (ModelConfig, CacheConfig, ParallelConfig, SchedulerConfig):
        for field in fields(part):
            names[field.name] = field.name
            if alias := field.metadata.get("alias"):
                names[alias.replace("-", "_")] = field.name
    return names
