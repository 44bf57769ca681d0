"""The tests marked gpu, each file in a process of its own and several at once: `python -m bench.gpu.run_tests FILE`.

A test that hangs or spoils the GPU for its process costs itself alone. FILE gets the items of all (bench/gpu/progress.py)
while they run. Needs pytest and none of its plugins.
"""

import argparse
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from bench.gpu.progress import STALL_S, Progress, run_to_the_end

# Files with many tests, cut by words of pytest's -k, and what has none of them: they would end last.
CUTS = {
    "tests/unit/ops/test_attention_devices.py": ("cuda-naive", "cuda-torch", "cuda-mma", "cuda-native"),
    "tests/unit/ops/test_attention_check.py": ("native",),
}
# What is worth most comes first, as the time may end before the tests do; then the others by name.
FIRST = (
    "tests/unit/ops/test_attention_check.py",
    "tests/integration/test_device_runner.py",
    "tests/unit/offload/test_backends.py",
    "tests/unit/ops/test_attention_devices.py",
)
COLLECT_S = 1.0


def files_with_gpu_tests(root: Path) -> list[str]:
    """Files that mark tests themselves or get their device from the fixture of that name; others may import what is missing."""
    files = {path for path in root.glob("tests/**/test_*.py") if "mark.gpu" in path.read_text()}
    files |= {path for path in root.glob("tests/unit/ops/test_*.py") if re.search(r"\bdevice\b", path.read_text())}
    files -= set(root.glob("tests/unit/bench/*"))  # tests of this script
    return sorted(str(path.relative_to(root)) for path in files)


def parts(files: Sequence[str], select: str) -> list[tuple[str, str]]:
    """File and expression of every process, in the order in which they begin."""
    ordered = [file for file in FIRST if file in files] + [file for file in files if file not in FIRST]
    cut = []
    for file in ordered:
        words = CUTS.get(file, ()) if "not gpu" not in select else ()
        cut += [(file, word) for word in (*words, f"not ({' or '.join(words)})" if words else "")]
    return cut


def run_part(part: tuple[str, str], number: int, folder: Path, select: str, stall_s: float) -> bool:
    """Run the tests of one part, whatever they do; False when they cannot be collected or too many spoil their process."""
    file, word = part
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir=.", "--import-mode=importlib", "-q"]
    command += ["-p", "no:cacheprovider", "-p", "bench.gpu.pytest_progress", "-W", "ignore", "-m", select]
    progress = folder / f"{number}.jsonl"
    # Plugins that happen to be installed are not ours to try out.
    command = [
        "env",
        f"PROGRESS={progress}",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1",
        *command,
        *(["-k", word] if word else []),
        file,
    ]
    return run_to_the_end(command, progress, stall_s=stall_s, log=folder / f"{number}.log")


class Collector:
    """Moves what ended in any part into one file, and prints what did not pass."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._folder = folder
        self._all = Progress(path)
        self.counts: Counter[str] = Counter()

    def collect(self) -> None:
        for path in sorted(self._folder.glob("*.jsonl")):
            for name, line in list(Progress(path).ended.items()):
                if name in self._all.ended:
                    continue
                facts = {key: value for key, value in line.items() if key not in ("end", "outcome")}
                self.add(name, str(line["outcome"]), **facts)

    def add(self, name: str, outcome: str, **facts: object) -> None:
        self._all.end(name, outcome, **facts)
        self.counts[outcome] += 1
        if outcome not in ("passed", "skipped"):
            print(f"{outcome}: {name}\n    {_last_line(str(facts.get('text', '')))}", flush=True)

    def done(self) -> None:
        self._all.done()


def _last_line(text: str) -> str:
    """The line of the error: pytest marks it with an E."""
    errors = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return (errors[0] if errors else text.strip().rpartition("\n")[2])[:300]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.run_tests", description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, metavar="FILE", help="where the outcome of every test goes, as JSON lines")
    parser.add_argument("--select", default="gpu and not slow", help="marks, as pytest's -m")
    parser.add_argument(
        "--jobs", type=int, default=max(1, min(6, (os.cpu_count() or 1) // 2)), help="processes at once"
    )
    parser.add_argument("--stall-s", type=float, default=STALL_S, help="longest time of a test")
    parser.add_argument("--files", nargs="+", help="default: all that hold tests for a GPU")
    args = parser.parse_args()
    files = args.files or files_with_gpu_tests(Path())
    os.environ.setdefault("OMP_NUM_THREADS", "2")  # the truth is computed on the CPU, in several processes at once
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(args.jobs) as pool:
        folder = Path(name)
        collector = Collector(folder, args.json)
        running: dict[Future, tuple[int, str]] = {}
        for number, part in enumerate(parts(files, args.select)):
            running[pool.submit(run_part, part, number, folder, args.select, args.stall_s)] = number, part[0]
        while True:
            ended = [future for future in running if future.done()]
            collector.collect()
            for future in ended:
                number, file = running.pop(future)
                if not future.result():
                    text = (folder / f"{number}.log").read_text()[-2000:]
                    collector.add(f"{file} {number}", "not finished", text=text)
            if not running:
                break
            time.sleep(COLLECT_S)
        collector.done()
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(collector.counts.items()))
    print(f"{counts} in {time.monotonic() - started_s:.0f} s", flush=True)
    return 0 if set(collector.counts) <= {"passed", "skipped"} else 1


if __name__ == "__main__":
    raise SystemExit(main())
