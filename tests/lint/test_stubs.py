"""The checked-in stubs of `fastserve._C` say what the module really is; `make stubs` writes them anew."""

import subprocess
import sys
from pathlib import Path

STUBS = Path(__file__).parents[2] / "python" / "fastserve" / "_C"


def test_the_stubs_match_the_compiled_module(tmp_path):
    command = [sys.executable, "-m", "pybind11_stubgen", "fastserve._C", "--output-dir", str(tmp_path), "--exit-code"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    generated = {path.name: path.read_text() for path in (tmp_path / "fastserve" / "_C").glob("*.pyi")}
    stored = {path.name: path.read_text() for path in STUBS.glob("*.pyi")}
    assert generated == stored, "the stubs are out of date: run `make stubs`"
