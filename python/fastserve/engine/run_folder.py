"""A private folder for the sockets of one process, which a later start sweeps away if its owner was killed."""

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path

_PREFIX = "fastserve-"
_LOCK = "lock"
SOCKET = "engine.sock"


class RunFolder:
    """A new folder with mode 0700, held by a lock that the kernel releases when this process ends, however it ends.

    So a folder whose lock is free has no owner: no process id is trusted, which another process may have by now.

    Attributes:
        path: of the folder; nothing but a `SOCKET` may be put into it.
    """

    def __init__(self) -> None:
        """Remove folders left by killed processes of this user, then create one."""
        sweep()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
            lock = _locked(self.path, os.O_CREAT)
            if lock is not None:  # else another start was quicker and took it for a left one
                self._lock: int | None = lock
                return

    def remove(self) -> None:
        """Remove the folder with its files; may be called again."""
        if self._lock is not None:
            _remove(self.path, self._lock)
            self._lock = None


def sweep() -> None:
    """Remove folders of this user whose owner process has ended; leave all others, and those that cannot be read."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and _is_mine(entry) and (lock := _locked(Path(entry.path))) is not None:
                _remove(Path(entry.path), lock)


def _is_mine(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):
        found = entry.stat(follow_symlinks=False)
        # A user may have folders of such a name as well: only one that holds what ours do, and no more, is ours.
        is_private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
        return is_private and found.st_uid == os.geteuid() and {_LOCK, SOCKET}.issuperset(os.listdir(entry))
    return False


def _locked(folder: Path, flags: int = 0) -> int | None:
    """A descriptor that holds the folder's lock; None when there is no lock, or another process holds it."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(lock)
        if (
            stat.S_ISREG(found.st_mode) and not found.st_size and found.st_nlink
        ):  # else its folder was removed meanwhile
            return lock
    except OSError:
        pass
    os.close(lock)
    return None


def _remove(folder: Path, lock: int) -> None:
    """Remove a folder whose lock the caller holds; the lock file is removed last and then released."""
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir(), key=lambda path: path.name == _LOCK):
            path.unlink()
        folder.rmdir()
    os.close(lock)
