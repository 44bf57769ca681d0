"""Work in named items that survives items which end their process: a file of JSON lines, and a loop that starts it again.

`python -m bench.gpu.progress FILE COMMAND...` runs a command that takes the file with `Progress`. Whatever item the process
hangs in or dies of is noted, and the command runs again for the rest. Imports nothing beyond the standard library.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

DEVICE_LOST = 70  # exit status of a process whose GPU fails every call; the item at fault has ended
STALL_S = 60.0
POLL_S = 0.1
MOST_PROCESSES = 10


class Progress:
    """Items that ended, now and in processes before; every line is on disk before the next item begins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = _lines(path)
        self.ended: dict[str, dict[str, object]] = {line["end"]: line for line in lines if "end" in line}
        begun = [line["begin"] for line in lines if "begin" in line]
        self.open: str | None = begun[-1] if begun and begun[-1] not in self.ended else None
        """The item that the last process did not end."""

    def begin(self, name: str) -> bool:
        """Whether the item is still to be done; if so it begins."""
        if name in self.ended:
            return False
        self._write({"begin": name})
        return True

    def end(self, name: str, outcome: str = "ok", /, **facts: object) -> None:
        """The item has ended; `outcome` says how, `facts` what it found."""
        self.ended[name] = {"end": name, "outcome": outcome, **facts}
        self._write(self.ended[name])

    def done(self) -> None:
        """Nothing is left."""
        self._write({"done": True})

    def _write(self, line: dict[str, object]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def run_item(progress: Progress, name: str, work: Callable[[], dict[str, object]]) -> dict[str, object] | None:
    """Do one item; an error is its outcome. None when it has been done before or failed.

    A GPU that is lost by it ends the process: nothing that would come after it could work.
    """
    if not progress.begin(name):
        return None
    try:
        facts = work()
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", flush=True)
        progress.end(name, "failed", error=f"{type(error).__name__}: {error}"[:2000])
        exit_if_device_is_lost()
        return None
    progress.end(name, **facts)
    return facts


def exit_if_device_is_lost() -> None:
    """End the process at once, with DEVICE_LOST, when the GPU that it uses fails every call."""
    import torch

    if not torch.cuda.is_initialized():
        return
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        os._exit(DEVICE_LOST)


def run_to_the_end(command: Sequence[str], path: Path, *, stall_s: float = STALL_S, log: Path | None = None) -> bool:
    """Run a command again and again until it says that it is done, makes no progress, or has lost MOST_PROCESSES.

    Args:
        path: its file of progress.
        stall_s: without a new line for so long it is ended, and the item that it is at with it.
        log: where its output goes; by default where ours goes.
    Returns:
        Whether it got to its end.
    """
    for _ in range(MOST_PROCESSES):
        size = path.stat().st_size if path.is_file() else 0
        with log.open("ab") if log is not None else open(os.devnull) as file:
            output = {"stdout": file, "stderr": subprocess.STDOUT} if log is not None else {}
            code = _watch(subprocess.Popen(command, **output), path, stall_s)
        if any("done" in line for line in _lines(path)[-1:]):
            return True
        progress = Progress(path)
        if progress.open is not None:
            outcome = "hung" if code is None else f"ended its process ({code})"
            print(f"{progress.open}: {outcome}", flush=True)
            progress.end(progress.open, outcome)
        elif not path.is_file() or path.stat().st_size == size:
            return False  # it does not even get to an item
    print(f"{path.name}: given up after {MOST_PROCESSES} processes that did not end well", flush=True)
    return False


def _watch(process: subprocess.Popen, path: Path, stall_s: float) -> int | None:
    """Its exit status; None when it was ended because nothing came any more."""
    seen, since_s = -1, time.monotonic()
    while (code := process.poll()) is None:
        size = path.stat().st_size if path.is_file() else 0
        if size != seen:
            seen, since_s = size, time.monotonic()
        elif time.monotonic() - since_s > stall_s:
            process.kill()
            process.wait()
            return None
        time.sleep(POLL_S)
    return code


def _lines(path: Path) -> list[dict]:
    """The whole lines; a process that was ended may have left a part of one."""
    text = path.read_text() if path.is_file() else ""
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    if text and not text.endswith("\n"):
        with path.open("a") as file:
            file.write("\n")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.progress", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--stall-s", type=float, default=STALL_S, help="end the process after so long without a line")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    finished = run_to_the_end(args.command, args.file, stall_s=args.stall_s)
    items = Progress(args.file).ended.values()
    return 0 if finished and all(item["outcome"] in ("ok", "passed", "skipped") for item in items) else 1


if __name__ == "__main__":
    raise SystemExit(main())
