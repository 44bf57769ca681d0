"""What each flag of `fastserve serve` does to the server that listens; its engine is a fake."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.unit.server.process import serve_process


def free_port(host: str) -> int:
    """A port without a listener."""
    with socket.create_server((host, 0)) as found:
        return found.getsockname()[1]


KEY = {"Authorization": "Bearer secret"}
FREE_PORT = free_port("127.0.0.2")
FLAGS = ("--host", "127.0.0.2", "--port", str(FREE_PORT),
         "--api-key", "secret", "--served-model-name", "public",
         "--max-body-bytes", "2048", "--heartbeat-limit-s", "0.5", "--metrics-compat", "none", "--strict-fields")  # fmt: skip


def until_loaded(client: httpx.Client) -> httpx.Client:
    """Return once the engine is attached."""
    end_s = time.monotonic() + 20
    while client.get("/readyz").json() == {"status": "loading"}:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    return client


@pytest.fixture(scope="module")
def plain() -> Iterator[httpx.Client]:
    """With default flags."""
    with serve_process("--port", "0") as (_, client):
        yield until_loaded(client)


@pytest.fixture(scope="module")
def flagged() -> Iterator[httpx.Client]:
    """With FLAGS; the client brings the key."""
    with serve_process(*FLAGS) as (_, client):
        client.headers.update(KEY)
        yield until_loaded(client)


def complete(client: httpx.Client, **body: object) -> httpx.Response:
    return client.post("/v1/completions", json={"prompt": "hi", "max_tokens": 1} | body)


def test_host_and_port_are_listened_on(plain, flagged):
    assert (plain.base_url.host, flagged.base_url.host) == ("127.0.0.1", "127.0.0.2")
    assert flagged.base_url.port == FREE_PORT


def test_api_key_locks_the_server(plain, flagged):
    assert complete(plain).status_code == 200
    assert complete(flagged).status_code == 200
    del flagged.headers["Authorization"]
    assert complete(flagged).status_code == 401
    flagged.headers.update(KEY)


def test_keys_of_the_environment_and_of_a_file_lock_the_server_and_are_not_logged(tmp_path, monkeypatch):
    path = tmp_path / "keys.csv"
    path.write_text("name,key\nann,filed-secret\n")
    path.chmod(0o644)
    monkeypatch.setenv("FASTSERVE_API_KEY", "own-secret")
    monkeypatch.setenv("VLLM_API_KEY", "their-secret")
    with serve_process("--port", "0", "--api-keys-file", str(path), "--log-level", "debug") as (process, client):
        until_loaded(client)
        assert client.get("/v1/models").status_code == 401
        for key in ("own-secret", "their-secret", "filed-secret"):
            assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        out, log = process.communicate(timeout=20)
    assert "secret" not in out + log and f"API keys in {path}" in log


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--api-keys-file", "/nowhere.csv"), "cannot be read"), (("--api-key", "\N{SNOWMAN}"), "printable")],
)
def test_keys_that_cannot_be_used_end_the_start(flags, words):
    command = [sys.executable, "-m", "fastserve.cli.main", "serve", "m", "--port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and words in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_served_model_name_replaces_the_models_own(plain, flagged):
    assert complete(plain, model="m").status_code == 200
    assert complete(plain, model="public").status_code == 404
    assert complete(flagged, model="public").json()["model"] == "public"
    assert complete(flagged, model="m").status_code == 404


def test_max_body_bytes_limits_the_body(plain, flagged):
    long = {"user": "x" * 3000}
    assert complete(plain, **long).status_code == 200
    reply = complete(flagged, **long)
    assert reply.status_code == 413 and "2048 bytes" in reply.json()["error"]["message"]


def test_strict_fields_refuses_what_is_else_ignored(plain, flagged):
    assert "nonsense" in complete(plain, nonsense=1).headers["warning"]
    assert complete(flagged, nonsense=1).status_code == 400


def test_heartbeat_limit_decides_when_livez_fails(plain, flagged):
    assert plain.get("/livez").status_code == 200
    reply = flagged.get("/livez")
    assert reply.status_code == 503 and "limit 0.5 s" in reply.json()["status"]


def test_metrics_compat_none_leaves_vllms_names_out(plain, flagged):
    assert "vllm:num_requests_running" in plain.get("/metrics").text
    assert "vllm:" not in flagged.get("/metrics").text


def log_of(*flags: str) -> list[str]:
    """Serve one request, then SIGTERM with another one running, which never finishes; returns the log."""
    with serve_process("--port", "0", *flags) as (process, client):
        assert complete(until_loaded(client)).status_code == 200
        with client.stream("POST", "/v1/completions", json={"prompt": "hi", "stream": True}) as stream:
            pieces = stream.iter_raw()  # the reply is closed when it goes
            next(pieces)
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        return log.splitlines()


def test_json_logs_are_json_and_shutdown_timeout_bounds_the_drain():
    rows = [json.loads(line) for line in log_of("--json-logs", "--shutdown-timeout", "3.5")]
    assert any(row.get("request_id", "").startswith("cmpl-") for row in rows)
    messages = [row["message"] for row in rows]
    assert "SIGTERM: no new requests; 1 may finish within 0.5 s" in messages
    assert "1 requests did not finish in time and are aborted" in messages


def test_thread_that_never_ends_does_not_hold_the_process():
    with serve_process("--port", "0") as (process, client):
        until_loaded(client)
        with socket.create_connection((client.base_url.host, client.base_url.port)) as stuck:
            body = json.dumps({"prompt": "stuck" * 1000}).encode()
            stuck.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            assert process.stdout.readline() == "stuck\n"
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=20)
        assert process.returncode == 0
        assert "1 threads are still at work and are left behind" in log and "Traceback" not in log


def test_log_level_warning_is_quiet_about_requests():
    talk = log_of("--shutdown-timeout", "0")
    assert any("cmpl-" in line for line in talk)
    lines = log_of("--log-level", "warning", "--shutdown-timeout", "0")
    assert not any("INFO" in line for line in lines)
