"""Flags of `fastserve serve` that come from the environment or from a file instead of the command line."""

import argparse
import difflib
import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fastserve.cli.api_key import SERVER_VARIABLES
from fastserve.cli.lazy import load
from fastserve.cli.main import OneLineParser
from fastserve.errors import InvalidArgumentError

PREFIX = "FASTSERVE_"
MAX_FILE_BYTES = 1 << 20
# Variables that make a server safer: one whose value went missing must not open it.
_NEVER_BLANK = {
    PREFIX + name for name in ("API_KEYS_FILE", "SSL_CERTFILE", "SSL_KEYFILE", "SSL_CA_CERTS", "SSL_CERT_REQS", "UDS")
}
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
            args, rest = self.parse_known_args(_words(setting, action))
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"{setting.origin}: {error}") from None
        except (TypeError, ValueError, RecursionError):  # of the mappings of a file, which become JSON
            raise InvalidArgumentError(f"{setting.origin}: must hold texts, numbers and truth values alone") from None
        if rest:
            raise InvalidArgumentError(f"{setting.origin}: cannot be read")
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
        if isinstance(value, str) and not value.lstrip().startswith("["):  # else it is a JSON list
            value = value.split(",")
        values = value if isinstance(value, list) else [value]
        parts = [part.strip() for part in values if isinstance(part, str)]
        if len(parts) < len(values):
            raise InvalidArgumentError(f"{flag} must be texts: put numbers, and words such as yes, in quotes")
        if any(part.startswith("-") for part in parts):
            raise InvalidArgumentError(f"{flag}: no value may begin with a dash")
        return [flag, *parts]
    if action.type is str and isinstance(value, int | float):
        raise InvalidArgumentError(f"{flag} must be a text: put it in quotes")
    return [f"{flag}={json.dumps(value) if isinstance(value, list | dict) else value}"]


def environment_settings(environment: Mapping[str, str], parser: SettingParser) -> tuple[list[Setting], list[str]]:
    """The settings that FASTSERVE_* variables make, and what to say of those that are close to a flag but are none.

    An empty variable counts as not set, but for those that make a server safer. The API key is read elsewhere.

    Raises:
        InvalidArgumentError: one of those is blank.
    """
    flags = {PREFIX + flag[2:].replace("-", "_").upper(): flag for flag in parser.flags()}
    settings, notes = [], []
    for name, value in sorted(environment.items()):
        if name in _NEVER_BLANK and not value:
            raise InvalidArgumentError(f"{name} must not be blank: unset it")
        if not name.startswith(PREFIX) or name in SERVER_VARIABLES or not value:
            continue
        if name in flags and name.endswith("_PORT") and "://" in value:
            notes.append(f"{name}={value} is ignored: it is Kubernetes's variable of a service")
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
        takes_several = flags[flag].nargs == "+" and isinstance(value, str)
        yield Setting(f"{path}: {key}", flag, [value] if takes_several else value)


def _mapping(path: str) -> dict[object, object]:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise InvalidArgumentError(f"config file must be at most {MAX_FILE_BYTES} bytes, {path} is longer")
        repeated = _repeated_key(load("yaml:compose")(data, Loader=load("yaml:SafeLoader")))
        if repeated is not None:
            raise InvalidArgumentError(f"{path}, line {repeated.line + 1}: this key is there before; give each once")
        found = load("yaml:safe_load")(data)
    except OSError as error:
        raise InvalidArgumentError(f"config file cannot be read: {error}") from None
    except InvalidArgumentError:
        raise
    except (
        Exception
    ) as error:  # of constructors too: ValueError, KeyError, ...; neither text nor line, which may be a key
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1} column {mark.column + 1}," if mark else ""
        raise InvalidArgumentError(f"config file {path}{where} must be YAML") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidArgumentError(f"config file {path} must map names of flags to values")
    return found


def _repeated_key(root: Any) -> Any:
    """The place of a key that its mapping has twice, of which YAML would keep the last; names of flags in any spelling."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen or not isinstance(getattr(node, "value", None), list):
            continue
        seen.add(id(node))  # an alias is the node that it names
        keys = set()
        for child in node.value:
            key, value = child if isinstance(child, tuple) else (None, child)
            waiting.append(value)
            if key is None:
                continue
            waiting.append(key)
            name = str(key.value).replace("_", "-") if node is root else str(key.value)
            if name in keys:
                return key.start_mark
            keys.add(name)
    return None


def secrecy_note(path: str, flags: Iterable[str]) -> str | None:
    """What to say of a file of flags that every user may read although it has keys."""
    mode = Path(path).stat().st_mode
    if "--api-key" in flags and stat.S_ISREG(mode) and mode & stat.S_IROTH:
        return f"every user of this machine may read the API keys in {path}: chmod 600"
    return None
