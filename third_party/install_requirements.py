"""Install what building, serving, benchmarking and testing need into the running environment.

Without arguments: the versions of the lock file for this Python, checked by hash, with PyTorch's CPU build.
`--torch REQUIREMENT`: another build of PyTorch, installed first; everything else from the lock.
`--newest`: the newest of everything, PyTorch included, whatever the bounds of pyproject.toml say.
"""

from __future__ import annotations  # so that older Pythons get as far as the sentence that refuses them

import argparse
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = HERE / "lock"
PYTHON_VERSIONS = ("3.11", "3.12", "3.13")
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def pyproject_requirements() -> list[str]:
    """Requirements of the build system, of the project and of every extra; PyTorch left out, its build depends on the machine."""
    import tomllib

    data = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    project = data["project"]
    wanted = [*data["build-system"]["requires"], *project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    return [requirement for requirement in dict.fromkeys(wanted) if name_of(requirement) != "torch"]


def name_of(requirement: str) -> str:
    """The package that a requirement names, without extras and bounds."""
    return re.match(r"[A-Za-z0-9._-]+", requirement).group()


def lock_file() -> Path:
    """The lock file for the running Python.

    Raises:
        SystemExit: there is none.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version not in PYTHON_VERSIONS:
        sys.exit(
            f"Python {version} is not supported: FastServe is built and tested with {', '.join(PYTHON_VERSIONS)}. "
            "Choose one of them with PYTHON=python3.x on the command line of make."
        )
    return LOCKS / f"requirements-python{version}.txt"


def install_locked(torch: str | None) -> None:
    """Install the lock file; with `torch`, that build of PyTorch instead of the locked one."""
    entries = re.split(r"^(?=\S)", lock_file().read_text(), flags=re.MULTILINE)
    locked_torch = [entry for entry in entries if name_or_none(entry) == "torch"]
    others = [entry for entry in entries if name_or_none(entry) not in (None, "torch")]
    # PyTorch first: an open requirement on it must find it installed.
    if torch:
        pip("--upgrade", torch)
    elif not pip_entries(locked_torch, check=False):
        pip_entries(locked_torch, "--extra-index-url", TORCH_CPU_INDEX)
    pip_entries(others)


def install_newest(torch: str | None) -> None:
    """Install the newest version of every package, whatever the bounds say, and print where it differs from the lock."""
    pip("--upgrade", torch or "torch")
    pip("--upgrade", *(re.split(r"[<>=!~]", requirement)[0] for requirement in pyproject_requirements()))
    for entry in re.findall(r"^(\S+)==(\S+)", lock_file().read_text(), flags=re.MULTILINE):
        name, locked = re.sub(r"\[.*\]", "", entry[0]), entry[1]
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "not installed"
        if installed != locked:
            print(f"{name}: {locked} in the lock, {installed} here")


def name_or_none(entry: str) -> str | None:
    """The package of an entry of a lock file; None for a comment or an empty line."""
    return None if not entry.strip() or entry.startswith("#") else name_of(entry)


def pip_entries(entries: list[str], *arguments: str, check: bool = True) -> bool:
    """Install entries of a lock file, hashes checked and nothing besides; returns whether pip succeeded."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(entries))
        file.flush()
        return pip("--no-deps", "--require-hashes", "-r", file.name, *arguments, check=check)


def pip(*arguments: str, check: bool = True) -> bool:
    """Run `pip install`; returns whether it succeeded.

    Raises:
        SystemExit: it failed and `check` is set; pip has printed why.
    """
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", *arguments], check=False)
    if check and done.returncode:
        sys.exit(done.returncode)
    return done.returncode == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", metavar="REQUIREMENT", help="another build of PyTorch, for example torch==2.12.0")
    parser.add_argument("--newest", action="store_true", help="the newest of everything instead of the lock")
    asked = parser.parse_args()
    (install_newest if asked.newest else install_locked)(asked.torch)
