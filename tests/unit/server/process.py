"""Starts `fake_server`, or `fastserve serve` over the same engine, as a real process."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx


@contextmanager
def server_process(
    mode: str, shutdown_timeout: float = 20.0, *, restarts: int = 0, descriptors: int | None = None
) -> Iterator[tuple[subprocess.Popen, httpx.Client]]:
    """Start `fake_server`, if wanted with a limit of open files; kill it whatever happens."""
    with _listening("fake_server", mode, str(shutdown_timeout), str(restarts), descriptors=descriptors) as parts:
        yield parts


@contextmanager
def serve_process(*flags: str) -> Iterator[tuple[subprocess.Popen, httpx.Client]]:
    """Start `fake_serve` with flags of `fastserve serve`; kill it whatever happens."""
    with _listening("fake_serve", *flags) as parts:
        yield parts


@contextmanager
def _listening(
    module: str, *words: str, descriptors: int | None = None
) -> Iterator[tuple[subprocess.Popen, httpx.Client]]:
    command = [sys.executable, "-m", f"tests.unit.server.{module}", *words]
    if descriptors is not None:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh", *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        found = re.search(r"listening on (http://127\.0\.0\.\d:\d+)", process.stdout.readline())
        with httpx.Client(base_url=found[1], timeout=20) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def wait_ready(client: httpx.Client) -> None:
    """Return once /readyz says yes."""
    end_s = time.monotonic() + 20
    while client.get("/readyz").status_code != 200:
        assert time.monotonic() < end_s
        time.sleep(0.02)
