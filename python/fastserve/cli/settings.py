"""Flags of `fastserve serve` that come from the environment or from a file instead of the command line."""

import argparse
import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fastserve.cli.api_key import SERVER_VARIABLES
from fastserve.cli.lazy import load
from fastserve.cli.main import OneLineParser
from fastserve.errors import InvalidArgumentError

PREFIX = "FASTSERVE_"
MAX_FILE_BYTES = 1 << 20
_TRUTH = {"1": True, "true": True, "on": True, "yes": True, "0": False, "false": False, "off": False, "no": False}
_CLOSE = 0.8  # of difflib's ratio: a name so similar was probably meant


@dataclass(frozen=True, slots=True)
class Setting:
    """A flag with a value.

    Attributes:
        origin: where it comes from, for messages: a variable, or a file and its key.
        flag: as on a command line, with its dashes.
        value: a text from the environment; a text, number, truth value, list or mapping from a file.
    """

    origin: str
    flag: str
    value: object


class SettingParser(OneLineParser):
    """Reads settings one by one, with the flags of a command; raises where a command line would end the process."""

    def __init__(self) -> None:
        super().__init__(prog="setting", add_help=False)

    def error(self, message: str) -> NoReturn:
        """Raise an InvalidArgumentError."""
        raise InvalidArgumentError(message.removeprefix("argument "))

    def flags(self) -> dict[str, argparse.Action]:
        """Every long flag but the negative forms of switches."""
        return {
            name: action
            for action in self._actions
            for name in action.option_strings
            if name.startswith("--") and not (name.startswith("--no-") and name[5:] in action.option_strings[0])
        }

    def read(self, setting: Setting) -> tuple[str, Any]:
        """The name of the parsed argument and its value.

        Raises:
            InvalidArgumentError: it cannot be read; the message names its origin.
        """
        action = self.flags()[setting.flag]
        try:
            args, _ = self.parse_known_args(_words(setting, action))
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{setting.origin}: {error}") from None
        return action.dest, getattr(args, action.dest)


def _words(setting: Setting, action: argparse.Action) -> list[str]:
    """The setting as it would stand on a command line."""
    flag, value = setting.flag, setting.value
    if isinstance(value, str) and action.nargs == 0:
        value = _TRUTH.get(value.strip().lower(), value)
    if isinstance(value, bool):
        if action.nargs == 0:
            return [flag if value else flag.replace("--", "--no-", 1)]
        raise InvalidArgumentError(f"{flag} must have a value, got {str(value).lower()}")
    if action.nargs == 0:
        raise InvalidArgumentError(f"{flag} must be true or false, got {value!r:.200}")
    if value is None:
        raise InvalidArgumentError(f"{flag} must have a value; leave it out for the default")
    if action.nargs == "+":
        values = value if isinstance(value, list) else str(value).split(",")
        return [flag, *(str(part).strip() for part in values)]
    return [f"{flag}={json.dumps(value) if isinstance(value, list | dict) else value}"]


def environment_settings(environment: Mapping[str, str], parser: SettingParser) -> tuple[list[Setting], list[str]]:
    """The settings that FASTSERVE_* variables make, and what to say of those that are close to a flag but are none.

    An empty variable counts as not set. The API key is read elsewhere.
    """
    flags = {PREFIX + flag[2:].replace("-", "_").upper(): flag for flag in parser.flags()}
    settings, notes = [], []
    for name, value in sorted(environment.items()):
        if not name.startswith(PREFIX) or name in SERVER_VARIABLES or not value:
            continue
        if name == f"{PREFIX}PORT" and "://" in value:
            notes.append(f"{name}={value} is ignored: it is Kubernetes's variable of a service called fastserve")
        elif name in flags:
            settings.append(Setting(name, flags[name], value))
        elif close := difflib.get_close_matches(
            name[len(PREFIX) :], [known[len(PREFIX) :] for known in flags], 1, _CLOSE
        ):
            notes.append(f"{name} is ignored: it is no setting; {PREFIX}{close[0]} is")
    return settings, notes


def file_settings(path: str, parser: SettingParser) -> Iterator[Setting]:
    """The settings of a YAML file whose keys are names of flags.

    Raises:
        InvalidArgumentError: the file cannot be read, is no mapping, or has a key that is no flag.
    """
    flags = parser.flags()
    for key, value in _mapping(path).items():
        flag = "--" + str(key).replace("_", "-")
        if flag == "--config":
            raise InvalidArgumentError(f"{path}: config must not name another file")
        if flag not in flags:
            close = difflib.get_close_matches(flag, flags, 1, 0)
            raise InvalidArgumentError(f"{path}: {str(key)!r:.200} is no flag; did you mean {close[0][2:]}?")
        yield Setting(f"{path}: {key}", flag, value)


def _mapping(path: str) -> dict[object, object]:
    yaml_error = load("yaml:YAMLError")
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InvalidArgumentError(f"config file must be at most {MAX_FILE_BYTES} bytes, {path} is longer")
        found = load("yaml:safe_load")(data)
    except OSError as error:
        raise InvalidArgumentError(f"config file cannot be read: {error}") from None
    except (yaml_error, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgumentError(f"config file {path} must be YAML: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidArgumentError(f"config file {path} must map names of flags to values")
    return found
