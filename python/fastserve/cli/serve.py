"""`fastserve serve MODEL`"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastserve.cli.api_key import take_server_keys
from fastserve.cli.flags import add_config_flags, add_engine_flags, config_of, engine_config_of, settle_model
from fastserve.cli.json_flags import join_json_flags
from fastserve.cli.lazy import load
from fastserve.cli.settings import SettingParser, environment_settings, file_settings, secrecy_note
from fastserve.cli.vllm_flags.actions import WITHOUT_EFFECT, add_vllm_flags
from fastserve.config import ServerConfig
from fastserve.errors import InvalidArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and every flag of the engine and of the server."""
    add_engine_flags(parser, model_is_optional=True)
    parser.add_argument("--config", metavar="FILE", help="YAML file of flags, without their dashes; docs/from-vllm.md")
    add_config_flags(parser, ServerConfig)
    add_vllm_flags(parser)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, on top of FASTSERVE_* variables, on top of a file of flags, on top of the defaults.

    Raises:
        InvalidArgumentError: a variable or the file cannot be read; the message names it.
    """
    words = join_json_flags(words)
    args = parser.parse_args(words)
    reader = SettingParser()
    add_arguments(reader)
    variables, notes = environment_settings(os.environ, reader)
    path = args.config or next((str(each.value) for each in variables if each.flag == "--config"), None)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    in_file = tuple(file_settings(path, reader)) if path else ()
    if path and (note := secrecy_note(path, (setting.flag for setting in in_file))):
        notes.append(note)
    for setting in (*in_file, *variables):
        name, value = reader.read(setting)
        if name == WITHOUT_EFFECT:
            value = (*values.get(name, ()), *value)
        values[name], origins[name] = value, setting.origin
    parser.set_defaults(**values)
    args = parser.parse_args(words)
    settle_model(parser, args)
    args.notes = notes
    args.origins = {name: origin for name, origin in origins.items() if getattr(args, name) == values[name]}
    return args


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; returns the server's exit code."""
    try:
        engine_config, server_config = engine_config_of(args), config_of(ServerConfig, args)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(_with_origin(str(error), args.origins)) from None
    server_config = replace(server_config, api_key=(*server_config.api_key, *take_server_keys()))
    notes = [*args.notes, *(f"{flag} has no effect: FastServe does so anyway" for flag in args.without_effect)]
    try:
        return int(load("fastserve.server.run:run_server")(engine_config, server_config, notes=notes))
    except InvalidArgumentError as error:  # a file that cannot be used
        raise InvalidArgumentError(_with_origin(str(error), args.origins)) from None


def _with_origin(message: str, origins: Mapping[str, str]) -> str:
    """Put the variable, or the key of a file, that brought a refused value in front of the refusal."""
    origin = next((origin for name, origin in origins.items() if re.search(rf"\b{name}\b", message)), None)
    return f"{origin}: {message}" if origin else message
