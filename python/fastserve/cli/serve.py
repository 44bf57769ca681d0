"""`fastserve serve MODEL`"""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from fastserve.cli.api_key import take_server_keys
from fastserve.cli.flags import add_config_flags, add_engine_flags, config_of, engine_config_of, settle_model
from fastserve.cli.lazy import load
from fastserve.cli.vllm_flags.actions import add_vllm_flags
from fastserve.config import ServerConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and every flag of the engine and of the server."""
    add_engine_flags(parser, model_is_optional=True)
    add_config_flags(parser, ServerConfig)
    add_vllm_flags(parser)


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; MODEL may be a word or a flag."""
    args = parser.parse_args(words)
    settle_model(parser, args)
    return args


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; returns the server's exit code."""
    engine_config, server_config = engine_config_of(args), config_of(ServerConfig, args)
    server_config = replace(server_config, api_key=(*server_config.api_key, *take_server_keys()))
    notes = [f"{flag} has no effect: FastServe does so anyway" for flag in args.without_effect]
    return int(load("fastserve.server.run:run_server")(engine_config, server_config, notes=notes))
