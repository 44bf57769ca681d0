"""Flags from the config dataclasses: name, type, choices, help, unit, default and alias come from each field."""

import argparse
import dataclasses
import json
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Sequence
from fractions import Fraction
from typing import Any, TypeVar

from fastserve.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig, ServerConfig

POSITIONAL = "model"
_MODEL_WORD = "model_word"
Config = TypeVar("Config", ModelConfig, CacheConfig, ParallelConfig, SchedulerConfig, ServerConfig)


def add_config_flags(parser: argparse.ArgumentParser, config_class: type, *, skip: Collection[str] = ()) -> None:
    """Add a flag for every field of a config dataclass; bools become --x / --no-x."""
    group = parser.add_argument_group((config_class.__doc__ or "").strip().splitlines()[0].rstrip("."))
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if field.name not in skip:
            group.add_argument(*_names(field), **_settings(field, hints[field.name]))


def add_engine_flags(parser: argparse.ArgumentParser, *, model_is_optional: bool = False) -> None:
    """Add MODEL and the flags of the engine.

    Where the model is optional it may be given by the flag --model as well; see `settle_model`.
    """
    text = _escape(next(f.metadata["help"] for f in dataclasses.fields(ModelConfig) if f.name == POSITIONAL))
    if model_is_optional:
        parser.add_argument(_MODEL_WORD, nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help=text)
        parser.add_argument("--model", dest=POSITIONAL, metavar="MODEL", help="the same, as a flag")
    else:
        parser.add_argument(POSITIONAL, metavar="MODEL", help=text)
    add_config_flags(parser, ModelConfig, skip=(POSITIONAL,))
    add_config_flags(parser, CacheConfig)
    add_config_flags(parser, ParallelConfig)
    add_config_flags(parser, SchedulerConfig)


def settle_model(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Let the positional MODEL win over the flag; an error of the parser when there is neither."""
    args.model = getattr(args, _MODEL_WORD, args.model)
    if args.model is None:
        parser.error("the following arguments are required: MODEL")


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
        parallel=config_of(ParallelConfig, args),
        scheduler=config_of(SchedulerConfig, args),
    )


class _Extend(argparse.Action):
    """A flag that takes several values and may be repeated; all of them count, in place of the default.

    Unless they are secrets the values may also be one JSON list.
    """

    def __init__(self, option_strings: Sequence[str], dest: str, *, secret: bool, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs="+", **settings)
        self._secret = secret

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if not self._secret and len(values) == 1 and values[0].startswith("["):
            values = _json_list(self, values[0])
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, (*(() if before is self.default else before), *values))


def _json_list(action: argparse.Action, text: str) -> list[str]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise argparse.ArgumentError(action, f"must be words or one JSON list of texts, got {text!r:.200}")
    return values


def _names(field: dataclasses.Field[Any]) -> Iterator[str]:
    yield "--" + field.name.replace("_", "-")
    if alias := field.metadata.get("alias"):
        yield "--" + alias
    if short := field.metadata.get("short"):
        yield "-" + short


def _settings(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    kind = _without_none(hint)
    if typing.get_origin(kind) is tuple:
        names = {"dest": field.name, "default": field.default, "help": _help(field), "metavar": "TEXT"}
        return names | {"action": _Extend, "secret": not field.repr}
    settings: dict[str, Any] = {"dest": field.name, "default": field.default, "help": _help(field)}
    if kind is bool:
        return settings | {"action": argparse.BooleanOptionalAction}
    choices = field.metadata.get("choices") or (typing.get_args(kind) if _is_literal(kind) else ())
    if choices:
        return settings | {"choices": choices, "type": _named(field.metadata["synonyms"])}
    if typing.get_origin(kind) is dict:
        return settings | {"type": _json_object, "metavar": "JSON"}
    unit = field.metadata["unit"]
    metavar = unit or {int: "N", float: "X"}.get(kind, "TEXT")
    return settings | {
        "type": _size if kind is int and unit in ("tokens", "bytes") else kind,
        "metavar": metavar.upper(),
    }


def _named(synonyms: dict[str, str]) -> Callable[[str], str]:
    """Return a function that maps a choice in any case, or a synonym of one, to the choice."""
    return lambda text: synonyms.get(text.lower(), text.lower())


_SIZE = re.compile(r"([+-]?\d{1,18}(?:\.\d{1,18})?)([kmgt]?)", re.IGNORECASE)


def _size(text: str) -> int:
    """Read an integer, or a short form of one: 8k = 8000, 8K = 8192, likewise m, g, t; 1.5k = 1500.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    if found := _SIZE.fullmatch(text):
        exponent = " kmgt".index(found[2].lower() or " ")
        value = Fraction(found[1]) * (1024 if found[2].isupper() else 1000) ** exponent
        if value.denominator == 1:
            return int(value)
    raise argparse.ArgumentTypeError(
        f"must be a whole number such as 8192, 8k (8000) or 8K (8192), got {text!r:.200}; leave it out for the default"
    )


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
    # The default of a tuple, and None, are worded in the help itself, where they mean something.
    if field.default not in (None, "") and not isinstance(field.default, tuple):
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
