"""What the offline benchmarks share: the engine in this process, and figures as JSON."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from fastserve.cli.flags import engine_config_of
from fastserve.cli.lazy import load


def open_llm(args: argparse.Namespace) -> Any:
    """The `LLM` of the engine's flags; raises as its constructor."""
    config = engine_config_of(args)
    values: dict[str, Any] = {}
    for part in (config.model, config.cache, config.scheduler):
        values |= {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return load("fastserve.engine.llm:LLM")(values.pop("model"), **values)


def add_output_argument(parser: argparse._ActionsContainer) -> None:
    """Add --output-json."""
    parser.add_argument("--output-json", type=Path, metavar="FILE", help="write the figures as JSON")


def save(args: argparse.Namespace, figures: dict[str, object]) -> None:
    """Write the figures where --output-json says."""
    if args.output_json is not None:
        load("fastserve.bench.report:write_json")(args.output_json, {"model": args.model} | figures)
