"""Write the lock files: every package that building, serving, benchmarking and testing need, with hashes, one file per Python.

Run by `make lock`, with `uv` on PATH. The versions are the newest that the bounds of pyproject.toml allow.
"""

import subprocess
import sys
import tempfile

from install_requirements import LOCKS, PYTHON_VERSIONS, pyproject_requirements

# PyTorch's CPU build is not on the Python Package Index, so no resolver finds it there: its wheels for x86-64 Linux are
# named here, and so is what they depend on (the `Requires-Dist` lines of the wheel).
TORCH = "2.13.0+cpu"
TORCH_SHA256 = {
    "3.11": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "3.12": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
    "3.13": "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
}
TORCH_REQUIRES = [
    "filelock",
    "typing-extensions>=4.10",
    "setuptools>=77.0.3",
    "sympy>=1.13.3",
    "networkx>=2.5.1",
    "jinja2",
    "fsspec>=0.8.5",
]
# What packages ask for and the lock leaves out, with all that only they need: torch, whose build is named above, and Triton
# (hundreds of megabytes), which xgrammar asks for and imports only to mask logits on a GPU, which the worker does itself.
# A CUDA build of torch brings its own. `install_requirements.py` installs the lock with --no-deps, so none of them is missed.
LEFT_OUT = ["torch", "triton"]


def lock(python_version: str) -> str:
    """The text of the lock file for one Python version, for example "3.11"."""
    command = ["uv", "pip", "compile", "-", "--generate-hashes", "--quiet", "--no-header", "--no-annotate", "--upgrade"]
    command += ["--python-version", python_version, "--python-platform", "x86_64-manylinux_2_28"]
    wanted = "\n".join([*pyproject_requirements(), *TORCH_REQUIRES])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as left_out:
        left_out.write("\n".join(LEFT_OUT))
        left_out.flush()
        command += ["--excludes", left_out.name]
        resolved = subprocess.run(command, input=wanted, stdout=subprocess.PIPE, text=True, check=True).stdout
    torch = f"torch=={TORCH} \\\n    --hash=sha256:{TORCH_SHA256[python_version]}\n"
    return f"# Python {python_version}, Linux. Written by `make lock`; not edited by hand.\n{torch}{resolved}"


if __name__ == "__main__":
    for version in PYTHON_VERSIONS:
        (LOCKS / f"requirements-python{version}.txt").write_text(lock(version))
        print(f"wrote {LOCKS.name}/requirements-python{version}.txt", file=sys.stderr)
