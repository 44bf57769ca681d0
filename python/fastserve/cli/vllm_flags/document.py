"""The table of docs/from-vllm.md: `python -m fastserve.cli.vllm_flags.document docs/from-vllm.md` rewrites it."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastserve.cli.vllm_flags import FLAGS, FORMER, GROUPS, VLLM_RELEASE
from fastserve.cli.vllm_flags.flag import ANY, OFF, ON, VllmFlag

BEGIN, END = "<!-- written by `make flag-table` -->\n", "<!-- end of the table -->\n"


def with_table(text: str) -> str:
    """A document with its table as it should be."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "".join(f"{line}\n" for line in _lines()) + END + after


def _lines() -> Iterator[str]:
    num = Counter("refused" if flag.as_here == (OFF,) else flag.kind for flag in FLAGS)
    yield ""
    yield (
        f"Of the {len(FLAGS)} flags of `vllm serve` {VLLM_RELEASE}, {num['same'] + num['renamed']} have the same meaning here,"
        f" {num['no effect']} are accepted with values that describe what FastServe does anyway, and {num['refused']} are"
        " refused."
    )
    for title, flags in GROUPS.items():
        yield from _section(title, flags)
    yield from _section(f"No longer in vLLM {VLLM_RELEASE}", FORMER)
    yield ""


def _section(title: str, flags: Iterable[VllmFlag]) -> Iterator[str]:
    yield from ("", f"### {title}", "", "| Flag of vLLM | Here | Note |", "|---|---|---|")
    for flag in flags:
        names = ", ".join(f"`{name}`" for name in flag.spellings)
        yield f"| {names} | {_here(flag)} | {flag.note} |"


def _here(flag: VllmFlag) -> str:
    if flag.kind == "same":
        return "same"
    if flag.kind == "renamed":
        return f"same as `--{flag.ours}`"
    if flag.kind == "refused":
        return "refused"
    if flag.as_here == (OFF,):
        return f"refused, except `{_shown(flag, OFF)}`"
    if ANY in flag.as_here:
        return "no effect"
    shown = ", ".join(f"`{_shown(flag, value)}`" for value in flag.as_here)
    return f"{shown}: no effect; else refused"


def _shown(flag: VllmFlag, value: str) -> str:
    if flag.shape == "switch":
        return f"--{'' if value == ON else 'no-'}{flag.name}"
    return value or "''"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
