"""Flags from the config dataclasses: name, type, choices, help, unit, default and alias come from each field."""

import argparse
import dataclasses
import json
import types
import typing
from collections.abc import Collection, Iterator
from typing import Any, TypeVar

from fastserve.config import CacheConfig, EngineConfig, ModelConfig, SchedulerConfig, ServerConfig

POSITIONAL = "model"
Config = TypeVar("Config", ModelConfig, CacheConfig, SchedulerConfig, ServerConfig)


def add_config_flags(parser: argparse.ArgumentParser, config_class: type, *, skip: Collection[str] = ()) -> None:
    """Add a flag for every field of a config dataclass; bools become --x / --no-x."""
    group = parser.add_argument_group((config_class.__doc__ or "").strip().splitlines()[0].rstrip("."))
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if field.name not in skip:
            group.add_argument(*_names(field), **_settings(field, hints[field.name]))


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and the flags of the engine."""
    text = next(f.metadata["help"] for f in dataclasses.fields(ModelConfig) if f.name == POSITIONAL)
    parser.add_argument(POSITIONAL, metavar="MODEL", help=_escape(text))
    add_config_flags(parser, ModelConfig, skip=(POSITIONAL,))
    add_config_flags(parser, CacheConfig)
    add_config_flags(parser, SchedulerConfig)


def config_of(config_class: type[Config], args: argparse.Namespace) -> Config:
    """The dataclass with the parsed values.

    Raises:
        InvalidArgumentError: a value is out of its range.
    """
    names = [field.name for field in dataclasses.fields(config_class)]
    return config_class(**{name: getattr(args, name) for name in names})


def engine_config_of(args: argparse.Namespace) -> EngineConfig:
    """The engine's configuration; raises as `config_of`."""
    return EngineConfig(
        model=config_of(ModelConfig, args),
        cache=config_of(CacheConfig, args),
        scheduler=config_of(SchedulerConfig, args),
    )


class _Extend(argparse.Action):
    """A flag that takes several values and may be repeated; all of them count."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), *values))


def _names(field: dataclasses.Field[Any]) -> Iterator[str]:
    yield "--" + field.name.replace("_", "-")
    if alias := field.metadata.get("alias"):
        yield "--" + alias


def _settings(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    kind = _without_none(hint)
    if typing.get_origin(kind) is tuple:
        names = {"dest": field.name, "default": field.default, "help": _help(field), "metavar": "TEXT"}
        return names | {"nargs": "+", "action": _Extend}
    settings: dict[str, Any] = {"dest": field.name, "default": field.default, "help": _help(field)}
    if kind is bool:
        return settings | {"action": argparse.BooleanOptionalAction}
    choices = field.metadata.get("choices") or (typing.get_args(kind) if _is_literal(kind) else ())
    if choices:
        return settings | {"choices": choices}
    if typing.get_origin(kind) is dict:
        return settings | {"type": _json_object, "metavar": "JSON"}
    metavar = field.metadata.get("unit") or {int: "N", float: "X"}.get(kind, "TEXT")
    return settings | {"type": kind, "metavar": metavar.upper()}


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r:.200}")
    return value


def _help(field: dataclasses.Field[Any]) -> str:
    unit = field.metadata.get("unit")
    text = field.metadata["help"] + (f" [{unit}]" if unit else "")
    # A None default is worded in the help itself, where it means something.
    if field.default not in (None, ()):
        shown = ("on" if field.default else "off") if field.type is bool else field.default
        text += f" (default: {shown})"
    return _escape(text)


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _without_none(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(part for part in typing.get_args(hint) if part is not types.NoneType)
    return hint


def _is_literal(kind: object) -> bool:
    return typing.get_origin(kind) is typing.Literal
