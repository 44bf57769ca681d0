"""Registers, spills and shared memory of every CUDA kernel per architecture: `python -m bench.cuda_report [BUILD]`.

Compiles the CUDA sources of a configured build folder (default build/dev) once more with the commands of that build, and
reads what ptxas says. Needs nvcc and no GPU.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_KERNEL = re.compile(r"Compiling entry function '(\S+)' for '(\w+)'")
_SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_REGISTERS = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")
_COMPLAINT = re.compile(r"\(C7\d+\) .*")  # wgmma serialised, setmaxnreg ignored: ptxas calls them information


@dataclass(frozen=True, slots=True)
class Usage:
    """What one kernel takes on one architecture; bytes but for the registers, which are per thread."""

    kernel: str
    architecture: str
    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int


def parse_ptxas(text: str) -> Iterator[Usage]:
    """Yield the kernels of the output of `nvcc -Xptxas -v`, names as the compiler mangles them."""
    kernel, architecture, spills = "", "", (0, 0, 0)
    for line in text.splitlines():
        if found := _KERNEL.search(line):
            kernel, architecture = found.groups()
        elif found := _SPILLS.search(line):
            spills = tuple(map(int, found.groups()))
        elif kernel and (found := _REGISTERS.search(line)):
            shared = _SHARED.search(line)
            yield Usage(
                kernel,
                architecture,
                registers=int(found.group(1)),
                stack_bytes=spills[0],
                spill_bytes=spills[1] + spills[2],
                shared_bytes=int(shared.group(1)) if shared else 0,
            )
            kernel = ""


def complaints(text: str) -> list[str]:
    """What ptxas says is slow in a kernel, which costs as much as a spill."""
    return _COMPLAINT.findall(text)


def compile_commands(build: Path) -> list[tuple[str, list[str]]]:
    """File name and nvcc command of every CUDA source of the build."""
    entries = json.loads((build / "compile_commands.json").read_text())
    commands = [(Path(entry["file"]).name, shlex.split(entry["command"])) for entry in entries]
    return [(name, command) for name, command in commands if _place_of_nvcc(command) is not None]


def _place_of_nvcc(command: list[str]) -> int | None:
    """Which word is the compiler: the first, or behind the compiler cache; None when it is another one."""
    return next((i for i, word in enumerate(command[:2]) if Path(word).name == "nvcc"), None)


def usage_of(command: list[str]) -> tuple[list[Usage], list[str]]:
    """Compile again beside the build and read what ptxas says: what each kernel takes, and complaints."""
    words = command[_place_of_nvcc(command) :]
    with tempfile.TemporaryDirectory() as folder:
        words[words.index("-o") + 1] = str(Path(folder, "out.o"))
        for flag in ("-MF", "-MT"):
            if flag in words:
                words[words.index(flag) + 1] = str(Path(folder, "out.d"))
        done = subprocess.run([*words, "-Xptxas", "-v"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    text = done.stdout + done.stderr
    return list(parse_ptxas(text)), complaints(text)


def demangled(names: list[str]) -> list[str]:
    """The names as a reader would write them, without namespaces and arguments."""
    filt = shutil.which("cu++filt") or shutil.which("c++filt")
    if filt is None:
        return names
    text = subprocess.run([filt], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    short = [
        re.sub(r"fastserve::|kernels::|cuda::|\(anonymous namespace\)::|^void ", "", line) for line in text.splitlines()
    ]
    return [re.sub(r"\((?:[A-Z]\w*|[a-z ]+[*&]?)(?:, .*)?\)$", "", line) for line in short]


def main() -> None:
    """Print one line per kernel and architecture, and fail when one spills or ptxas finds it slow."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda_report", description=__doc__)
    parser.add_argument("build", nargs="?", type=Path, default=Path("build/dev"), help="a configured build folder")
    arguments = parser.parse_args()
    commands = compile_commands(arguments.build)
    if not commands:
        sys.exit(f"{arguments.build} compiles no CUDA: configure it where nvcc is found")
    print(f"{'registers':>9} {'spilled':>8} {'stack':>6} {'shared':>7}  architecture  kernel")
    spilled, slow = 0, 0
    for file, command in commands:
        print(file)
        usages, found = usage_of(command)
        slow += len(found)
        for complaint in found:
            print(complaint)
        for name, usage in zip(demangled([usage.kernel for usage in usages]), usages, strict=True):
            print(
                f"{usage.registers:9} {usage.spill_bytes:8} {usage.stack_bytes:6} {usage.shared_bytes:7}  "
                f"{usage.architecture:12}  {name}"
            )
            spilled += usage.spill_bytes > 0
    if spilled or slow:
        sys.exit(f"{spilled} kernels spill registers, ptxas complains {slow} times")


if __name__ == "__main__":
    main()
