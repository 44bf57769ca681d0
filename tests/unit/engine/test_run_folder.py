"""Folders of processes that were killed are swept at the next start; those of living ones, and of others, never."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastserve.engine.channel import FrontendChannel
from fastserve.engine.run_folder import RunFolder, sweep
from fastserve.errors import InvalidArgumentError

OWNER = """
import sys
from fastserve.engine.run_folder import RunFolder
folder = RunFolder()
(folder.path / "engine.sock").touch()
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of our own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@contextmanager
def owner() -> Iterator[tuple[subprocess.Popen, Path]]:
    """Another process with a folder."""
    process = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.communicate()


def test_folder_is_private_and_gone_after_remove(temporary):
    folder = RunFolder()
    assert folder.path.parent == temporary and stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    (folder.path / "engine.sock").touch()
    folder.remove()
    folder.remove()
    assert list(temporary.iterdir()) == []


def test_folder_of_a_killed_process_is_swept_and_that_of_a_living_one_stays():
    with owner() as (killed, left), owner() as (_, held):
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.exists()
        mine = RunFolder()
        assert not left.exists()
        assert (held / "engine.sock").exists() and mine.path.exists()
        sweep()  # our own is held as well
        assert mine.path.exists()
        mine.remove()


def test_child_of_the_owner_does_not_hold_the_folder():
    with owner() as (_, held), subprocess.Popen(["sleep", "60"]) as child:
        assert held.exists()
        mine = RunFolder()
        lock_holder = subprocess.Popen(["sleep", "60"])
        os.close(mine._lock)  # as if this process had ended
        sweep()
        assert not mine.path.exists()
        for process in (child, lock_holder):
            process.kill()
            process.wait()


def test_what_is_not_known_to_be_left_stays(temporary):
    target = temporary / "precious"
    target.mkdir()
    (target / "lock").touch()
    (temporary / "fastserve-link").symlink_to(target)
    (temporary / "fastserve-no-lock").mkdir()
    (temporary / "fastserve-file").touch()
    linked = temporary / "fastserve-linked-lock"
    linked.mkdir()
    (linked / "lock").symlink_to(target / "lock")
    (temporary / "other").mkdir()
    for name in ("notes", "engine.sock.txt"):  # a user's folder, which happens to hold a file of the lock's name
        mine = temporary / f"fastserve-{name}"
        mine.mkdir(mode=0o700)
        (mine / "lock").touch()
        (mine / name).touch()
    (temporary / "fastserve-shared").mkdir(mode=0o755)
    (temporary / "fastserve-shared" / "lock").touch()
    (temporary / "fastserve-full").mkdir(mode=0o700)
    (temporary / "fastserve-full" / "lock").write_text("of another program")
    (temporary / "fastserve-pipe").mkdir(mode=0o700)
    os.mkfifo(temporary / "fastserve-pipe" / "lock")
    before = sorted(temporary.rglob("*"))
    sweep()
    assert sorted(temporary.rglob("*")) == before


def test_start_that_was_taken_for_a_left_folder_makes_another(monkeypatch):
    made = []
    real = tempfile.mkdtemp

    def swept_at_once(prefix: str) -> str:
        path = real(prefix=prefix)
        if not made:  # a sweep that locked the new folder first, and removes it now
            os.rmdir(path)
        made.append(path)
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", swept_at_once)
    folder = RunFolder()
    assert len(made) == 2 and str(folder.path) == made[1] and folder.path.exists()
    folder.remove()


def test_temporary_folder_without_room_for_a_socket_is_named_and_left_empty(temporary, monkeypatch):
    deep = temporary / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(InvalidArgumentError, match="set TMPDIR to a folder with a path of at most 76 bytes"):
        FrontendChannel()
    assert list(deep.iterdir()) == []
