"""`fastserve serve MODEL`"""

import argparse
from dataclasses import replace

from fastserve.cli.api_key import take_server_keys
from fastserve.cli.flags import add_config_flags, add_engine_flags, config_of, engine_config_of
from fastserve.cli.lazy import load
from fastserve.config import ServerConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL and every flag of the engine and of the server."""
    add_engine_flags(parser)
    add_config_flags(parser, ServerConfig)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal; returns the server's exit code."""
    engine_config, server_config = engine_config_of(args), config_of(ServerConfig, args)
    server_config = replace(server_config, api_key=(*server_config.api_key, *take_server_keys()))
    return int(load("fastserve.server.run:run_server")(engine_config, server_config))
