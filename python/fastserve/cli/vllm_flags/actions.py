"""The flags of vLLM that are not ours, on a command line: without effect, or refused with a sentence."""

import argparse
import shlex
from collections.abc import Sequence
from typing import Any

from fastserve.cli.vllm_flags import FLAGS, FORMER
from fastserve.cli.vllm_flags.flag import OFF, ON, VllmFlag

# Where parsed arguments have the flags that were given without effect, as texts.
WITHOUT_EFFECT = "without_effect"


def add_vllm_flags(parser: argparse.ArgumentParser) -> None:
    """Make a parser answer every flag of `vllm serve` that is none of ours; its help does not show them.

    A value that describes what FastServe does anyway is noted in `args.without_effect`; any other is an error of the
    parser.
    """
    for flag in (*FLAGS, *FORMER):
        if not flag.ours:
            names = [*flag.spellings, *([f"--no-{flag.name}"] if flag.shape == "switch" else [])]
            parser.add_argument(*names, dest=WITHOUT_EFFECT, default=(), action=_Answer, flag=flag)


class _Answer(argparse.Action):
    """Take note of a flag without effect, or refuse it."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, flag: VllmFlag, **settings: Any) -> None:
        nargs: dict[str, int | str | None] = {"switch": 0, "value": None, "values": "+", "optional": "?"}
        super().__init__(option_strings, dest, nargs=nargs[flag.shape], help=argparse.SUPPRESS, **settings)
        self._flag = flag

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        flag, given = self._flag, option_string or ""
        if flag.shape == "switch":
            words = [OFF if given == f"--no-{flag.name}" else ON]
        else:
            words = values if isinstance(values, list) else [] if values is None else [values]
            given = shlex.join([given, *words])
        if not words or not all(flag.is_as_here(word) for word in words):
            shown = given if flag.as_here else option_string or ""  # refused whatever it holds, which may be a secret
            parser.error(f"{shown:.200} is not supported: {flag.note}")
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), given))
