"""Start and stop the servers under test as real processes on loopback ports."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

START_TIMEOUT_S = 300.0


def free_port() -> int:
    """A loopback port that is free right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(command: Sequence[str], base_url: str, log: Path, *, env: dict[str, str] | None = None) -> Iterator[str]:
    """Run a server until the block ends; yields its base URL once /health answers 200; raises as `server_process`."""
    with server_process(command, base_url, log, env=env):
        yield base_url


@contextlib.contextmanager
def server_process(
    command: Sequence[str], base_url: str, log: Path, *, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen]:
    """Run a server until the block ends; yields its process once /health answers 200.

    Raises:
        RuntimeError: the server ended or did not get ready in time; the message carries the end of its log.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        try:
            _wait_until_ready(process, base_url, log)
            yield process
        finally:
            _stop(process)


def fastserve_command(model: Path, port: int, *flags: str) -> list[str]:
    """The command line of our own server; the model is served under the name "m"."""
    return [sys.executable, "-m", "fastserve.cli.main", "serve", str(model), "--served-model-name", "m",
            "--port", str(port), "--log-level", "warning", *flags]  # fmt: skip


def _wait_until_ready(process: subprocess.Popen, base_url: str, log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{base_url}/health", timeout=2.0).status_code == 200:
                return
        time.sleep(0.2)
    tail = log.read_text(errors="replace")[-3000:]
    raise RuntimeError(f"the server at {base_url} did not get ready (exit code {process.poll()}):\n{tail}")


def _stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
