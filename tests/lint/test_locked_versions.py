"""The lock files hold what pyproject.toml asks for, within its bounds."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "third_party/lock").glob("requirements-python*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> list[Requirement]:
    """Everything that pyproject.toml names."""
    project = PROJECT["project"]
    lines = [*PROJECT["build-system"]["requires"], *project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    return [Requirement(line) for line in lines]


def locked_versions(lock: Path) -> dict[str, str]:
    """Versions by package."""
    return dict(re.findall(r"^([A-Za-z0-9._-]+)(?:\[.*?\])?==(\S+)", lock.read_text(), re.MULTILINE))


def test_there_is_a_lock_file_for_every_python_that_is_promised():
    promised = [text.removeprefix("Programming Language :: Python :: ") for text in PROJECT["project"]["classifiers"]]
    assert [lock.stem.removeprefix("requirements-python") for lock in LOCKS] == [
        v for v in promised if re.fullmatch(r"3\.\d+", v)
    ]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_a_lock_file_meets_every_requirement(lock):
    versions = locked_versions(lock)
    for requirement in requirements():
        assert versions[requirement.name] in requirement.specifier, requirement


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_has_a_hash(lock):
    entries = re.split(r"^(?=[a-z])", lock.read_text(), flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    assert all("--hash=sha256:" in entry for entry in entries)


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_a_requirement_has_an_upper_bound(requirement):
    assert any(bound.operator in ("<", "==") for bound in requirement.specifier)
