"""No number given to the core crashes it, or makes it take memory without bound."""

import subprocess
import sys

import pytest

from tests import core_arguments

LIMIT_S = 300.0


@pytest.mark.parametrize("room", core_arguments.ROOMS)
def test_every_number_is_refused_or_works(room):
    run = subprocess.run(
        [sys.executable, "-m", "tests.core_arguments", room],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    *_, last = run.stdout.splitlines()
    assert run.returncode == 0, f"{last}\n{run.stderr[-2000:]}"
    assert "'worked'" in last and "'refused': 0" not in last


def test_all_classes_with_numbers_are_called():
    called = {(owner, name) for room in core_arguments.ROOMS for owner, name, _ in core_arguments.cases(room)}
    assert {owner for owner, _ in called} == {"", *core_arguments.MAKERS}
    assert ("KvManager", "__init__") in called and ("Scheduler", "add") in called and ("", "copy_fragments") in called
