"""compute-sanitizer on the shapes that narrowing has left: `python -m bench.gpu.sanitize FILE PROGRAM RESULTS`.

FILE gets an item per shape and tool. Imports nothing beyond the standard library.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.gpu.progress import Progress, run_item

TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
LIMIT_S = 45.0
ERRORS_FOUND = 9
TEXT_LENGTH = 3000


def narrowed_shapes(results: Path) -> list[str]:
    """The minimal shapes of the stage `narrowing`."""
    stages = json.loads(results.read_text())["stages"] if results.is_file() else {}
    return [item["minimal"] for item in stages.get("narrowing", {}).get("items", ()) if item.get("minimal")]


def sanitize(tool: str, command: Sequence[str]) -> dict[str, object]:
    """Run a command under a tool; its errors are an outcome of their own, in `errors`."""
    words = [
        "compute-sanitizer",
        "--tool",
        tool,
        "--error-exitcode",
        str(ERRORS_FOUND),
        "--print-limit",
        "20",
        *command,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    text = done.stdout + done.stderr
    print(text[-TEXT_LENGTH:], flush=True)
    if done.returncode != ERRORS_FOUND and "ERROR SUMMARY" not in text:
        raise RuntimeError(text.strip()[-TEXT_LENGTH:] or f"{tool} has printed nothing")
    return {"errors": done.returncode == ERRORS_FOUND, "text": text[:TEXT_LENGTH]}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.sanitize", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="items, as JSON lines")
    parser.add_argument("program", help="gpu_smoke")
    parser.add_argument("results", type=Path, help="results.json of bench/gpu_check.sh")
    args = parser.parse_args()
    progress = Progress(args.file)
    for shape in narrowed_shapes(args.results):
        for tool in TOOLS:
            command = [args.program, "--child", shape]
            run_item(progress, f"{tool}: {shape}", lambda tool=tool, command=command: sanitize(tool, command))
    progress.done()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
