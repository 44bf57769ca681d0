"""Entry point of `fastserve`: finds the command, checks its flags, runs it.

A command is a module of this package with `add_arguments(parser)` and `run(args) -> int`, and `parse(parser, words)` where
its arguments come from elsewhere as well. Only the chosen one is imported, and it loads torch or the server no earlier than in `run`: `--help` and a mistyped flag answer at once.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from fastserve import __version__
from fastserve.errors import FastServeError, InvalidArgumentError

COMMANDS = {
    "serve": "serve a model over an OpenAI-compatible HTTP API",
    "generate": "continue prompts offline and print the text",
    "chat": "talk to a running server",
    "simulate": "predict latencies of a workload by running the scheduler on a virtual clock",
    "profile": "measure the iteration times of a model on this machine, for simulate",
    "bench": "measure a running server, or the engine offline",
    "env": "show version, CPU, threads and CUDA devices",
}
# What `fastserve[serve]` does not bring.
BENCH_PACKAGES = ("aiohttp", "matplotlib")
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line; flags are never abbreviated, so that a new one breaks no script."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def parse_known_args(  # type: ignore[override]  # its overloads say no more
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse flags written with dashes or with underscores."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        return super().parse_known_args([*map(_dashed, words[:end]), *words[end:]], namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 1 when it failed, 2 for wrong arguments."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] not in COMMANDS:
        return _no_command(words)
    name = words[0]
    parser = OneLineParser(prog=f"fastserve {name}", description=COMMANDS[name])
    try:
        command = importlib.import_module(f"fastserve.cli.{name}")
        command.add_arguments(parser)
        parse = getattr(command, "parse", OneLineParser.parse_args)
        return int(command.run(parse(parser, words[1:])))
    except InvalidArgumentError as error:
        return _say(parser.prog, str(error), EXIT_USAGE)
    except (FastServeError, OSError) as error:
        return _say(parser.prog, str(error), EXIT_FAILED)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("fastserve"):
            raise
        extra = "bench" if error.name in BENCH_PACKAGES else "serve"
        return _say(parser.prog, f"{error.name} is not installed; pip install 'fastserve[{extra}]'", EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _dashed(word: str) -> str:
    """A flag with dashes for underscores; its value, or any other word, as it is."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _no_command(words: list[str]) -> int:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    parser = OneLineParser(
        prog="fastserve",
        usage="fastserve COMMAND ...",
        description="LLM serving engine that preempts at every token.",
        epilog=f"commands:\n{rows}\n\nfastserve COMMAND --help shows the flags of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fastserve {__version__}")
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.parse_args(words or ["--help"])
    return EXIT_USAGE


def _say(program: str, message: str, code: int) -> int:
    print(f"{program}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
