"""Install what pyproject.toml names for building, serving and testing into the running environment, except torch.

torch is installed beforehand, alone: an open requirement on it would replace the build that fits this machine.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path) -> list[str]:
    """Requirements of the build system, of the project and of every extra, torch left out."""
    data = tomllib.loads(pyproject.read_text())
    project = data["project"]
    names = [*data["build-system"]["requires"], *project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        names += extra
    return [name for name in names if re.match(r"[A-Za-z0-9._-]+", name).group() != "torch"]


if __name__ == "__main__":
    wanted = requirements(Path(__file__).parents[1] / "pyproject.toml")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "ninja", *wanted], check=True)
