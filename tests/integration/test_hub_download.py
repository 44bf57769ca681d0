"""A hub id works: downloaded from a hub on this machine by the commands themselves, then taken from the cache."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.checkpoints import tiny_checkpoint
from tests.fake_hub import FakeHub, running_hub

SMALL = ("--kv-gib", "0.01", "--host-kv-gib", "0")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with running_hub() as hub:
        hub.repositories["org/tiny"] = tiny_checkpoint("llama")
        yield hub


def start(
    hub: FakeHub, home: Path, *words: str, start_new_session: bool = False, **variables: str
) -> subprocess.Popen[str]:
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"} | variables
    command = [sys.executable, "-m", "fastserve.cli.main", *words]
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=start_new_session,
    )


def test_generate_downloads_once_and_then_works_without_a_network(hub: FakeHub, tmp_path: Path) -> None:
    words = (
        "generate",
        "org/tiny",
        "--prompt",
        "hi",
        "--max-tokens",
        "4",
        "--temperature",
        "0",
        "--ignore-eos",
        *SMALL,
    )
    process = start(hub, tmp_path, *words)
    first, errors = process.communicate()
    assert process.returncode == 0, errors
    assert any(path.endswith("/model.safetensors") for path in hub.requests)
    hub.requests.clear()
    process = start(hub, tmp_path, *words, HF_HUB_OFFLINE="1")
    assert process.communicate()[0] == first
    assert hub.requests == []


def test_serve_ends_at_a_signal_while_it_downloads(hub: FakeHub, tmp_path: Path) -> None:
    hub.stalled.add("model.safetensors")
    process = start(hub, tmp_path, "serve", "org/tiny", "--port", "0", *SMALL)
    assert process.stdout.readline().startswith("listening on")
    hub.stalling.wait()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 0, errors


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_download_ends_with_its_server_however_that_ends(hub: FakeHub, tmp_path: Path, number: int) -> None:
    hub.stalled.add("model.safetensors")
    process = start(hub, tmp_path, "serve", "org/tiny", "--port", "0", *SMALL, start_new_session=True)
    assert process.stdout.readline().startswith("listening on")
    hub.stalling.wait()
    children = psutil.Process(process.pid).children()
    if number == signal.SIGINT:  # a terminal sends it to the whole group
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, errors = process.communicate()
    assert children
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("/no/such/folder", "model must be a folder or a hub id (organisation/name), got '/no/such/folder'"),
        ("org/none", "model org/none cannot be downloaded: the hub has none of this name"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "generate"])
def test_a_wrong_model_is_named_as_the_model(
    hub: FakeHub, tmp_path: Path, command: str, model: str, sentence: str
) -> None:
    more = ("--port", "0") if command == "serve" else ("--prompt", "hi")
    process = start(hub, tmp_path, command, model, *more)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert sentence in errors and "tokenizer" not in errors and "Traceback" not in errors
