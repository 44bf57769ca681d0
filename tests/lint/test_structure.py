"""The directions and sizes that ARCHITECTURE.md promises, read from the sources themselves."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_LINES = 500
MAX_FILES = 25  # of a folder

# room -> rooms it may include, besides itself
MAY_INCLUDE = {
    "base": set(),
    "kv": {"base"},
    "sched": {"kv", "base"},
    "kernels": {"base"},
    "offload": {"base"},
    "collective": {"base"},
    "bindings": {"sched", "kv", "offload", "kernels", "collective", "base"},
}
FORBIDDEN_IN = {
    "kv": ("thread", "mutex", "atomic", "chrono", "cuda_runtime", "pybind11", "Python.h"),
    "sched": ("thread", "mutex", "atomic", "chrono", "cuda_runtime", "pybind11", "Python.h"),
    "kernels": ("pybind11", "Python.h"),
    "offload": ("pybind11", "Python.h"),
    "collective": ("thread", "mutex", "pybind11", "Python.h"),
    "base": ("pybind11", "Python.h"),
}


def sources(folder: str, *suffixes: str) -> list[Path]:
    return sorted(p for p in (ROOT / folder).rglob("*") if p.suffix in suffixes)


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#include\s+[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("room", MAY_INCLUDE)
def test_a_cpp_room_includes_only_rooms_below_it(room):
    allowed = MAY_INCLUDE[room] | {room}
    for path in sources(f"csrc/{room}", ".h", ".cc", ".cu", ".cuh"):
        for name in includes(path):
            first = name.split("/")[0]
            if first in MAY_INCLUDE:
                assert first in allowed, f"{path} includes {name}"


@pytest.mark.parametrize("room", FORBIDDEN_IN)
def test_a_cpp_room_knows_nothing_of_what_it_must_not_know(room):
    for path in sources(f"csrc/{room}", ".h", ".cc"):
        for name in includes(path):
            for word in FORBIDDEN_IN[room]:
                if (path.name, word) == ("plan_builder.cc", "atomic"):
                    continue  # a fence: the last reader of a recycled plan may have been the worker's thread
                assert not name.startswith(word), f"{path} includes {name}"


def test_kernel_launches_are_only_in_cuda_files():
    for path in sources("csrc", ".h", ".cc"):
        assert "<<<" not in path.read_text(), path


def test_no_source_file_is_longer_than_the_hard_stop():
    files = sources("csrc", ".h", ".cc", ".cu", ".cuh") + sources("python", ".py") + sources("tests", ".py", ".cc")
    too_long = {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert not too_long


def test_no_folder_has_more_files_than_a_reader_can_survey():
    rooms = ("csrc", "python", "bench", "docs", "tests/gpu_simulator")  # the other tests mirror them
    listed = subprocess.run(["git", "ls-files", *rooms], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git repository")
    counts = Counter(str(Path(name).parent) for name in listed.stdout.splitlines())
    assert {folder: n for folder, n in counts.items() if n > MAX_FILES} == {}


def test_python_rooms_import_only_what_stands_below_them():
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_importing_the_core_does_not_load_torch():
    code = "import sys, fastserve._C; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
