"""A server process from its first socket to its exit code."""

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from fastserve.config import ServerConfig
from fastserve.server import lifecycle
from fastserve.server.listening import bind
from tests.unit.server.process import server_process, wait_ready

BODY = {"prompt": "hi", "max_tokens": 50, "stream": True}


class StreamReader(threading.Thread):
    """Reads one streamed completion to its end."""

    def __init__(self, base_url: httpx.URL) -> None:
        super().__init__(daemon=True)
        self._base_url = base_url
        self.text = ""
        self.first = threading.Event()

    def run(self) -> None:
        with (
            httpx.Client(base_url=self._base_url, timeout=20) as client,
            client.stream("POST", "/v1/completions", json=BODY) as reply,
        ):
            for text in reply.iter_text():
                self.text += text
                self.first.set()


@contextmanager
def running_stream(client: httpx.Client) -> Iterator[StreamReader]:
    """A stream that has its first token."""
    wait_ready(client)
    reader = StreamReader(client.base_url)
    reader.start()
    assert reader.first.wait(20)
    yield reader
    reader.join(20)


def test_sigterm_refuses_the_new_finishes_the_running_and_exits_0():
    with server_process("slow") as (process, client), running_stream(client) as reader:
        process.send_signal(signal.SIGTERM)
        while (reply := client.get("/readyz")).status_code == 200:
            pass
        assert reply.json() == {"status": "draining"}
        refused = client.post("/v1/completions", json=BODY)
        assert refused.status_code == 503 and "retry-after" in refused.headers
        assert client.get("/livez").status_code == 200
        reader.join(20)
        assert reader.text.count("word ") == 50 and reader.text.endswith("[DONE]\n\n")
        assert process.wait(20) == 0


def test_requests_that_do_not_finish_in_time_get_an_error_and_the_exit_is_0():
    with server_process("hang", 0.2) as (process, client), running_stream(client) as reader:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        reader.join(20)
        assert '"code":"draining"' in reader.text


def test_end_that_gets_stuck_is_cut_off_with_tracebacks():
    with server_process("stuck", 0.0) as (process, client):
        wait_ready(client)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "Timeout" in errors and "in close" in errors


def test_second_signal_aborts():
    with server_process("hang", 60) as (process, client), running_stream(client) as reader:
        process.send_signal(signal.SIGTERM)
        while client.get("/readyz").status_code == 200:
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        reader.join(20)
        assert '"code":"draining"' in reader.text


def test_clients_of_a_dead_engine_get_an_error_within_2_s_and_the_server_ends():
    with server_process("dies") as (process, client), running_stream(client) as reader:
        started_s = time.monotonic()
        reader.join(20)
        assert time.monotonic() - started_s < 2.0
        assert '"code":"engine_dead"' in reader.text
        assert client.get("/livez").status_code == 503
        assert process.wait(20) == 1


@pytest.mark.parametrize("mode", ["breaks", "stands-still"])
def test_dead_or_hanging_engine_is_replaced_when_asked_for(mode):
    with server_process(mode, restarts=2) as (process, client), running_stream(client) as reader:
        reader.join(20)
        assert '"code":"engine_dead"' in reader.text
        assert ("the fake died" in reader.text) == (mode == "breaks")
        wait_ready(client)
        reply = client.post("/v1/completions", json=BODY | {"max_tokens": 1})
        assert reply.text.count("word ") == 1 and reply.text.endswith("[DONE]\n\n")
        num_restarts = 2 if mode == "breaks" else 1  # the one that did not start counts as well
        assert f'fastserve:engine_restarts_total{{engine="0",model_name="fake"}} {num_restarts}' in metrics(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_engine_that_keeps_dying_ends_the_server():
    with server_process("dies", restarts=1) as (process, client):
        for _ in range(2):
            with running_stream(client) as reader:
                reader.join(20)
                assert '"code":"engine_dead"' in reader.text
        assert process.wait(20) == 1


def test_engine_that_never_starts_is_not_started_again():
    with server_process("broken", restarts=5) as (process, _):
        assert process.wait(20) == 1


def metrics(client: httpx.Client) -> str:
    return client.get("/metrics").text


def test_server_listens_while_the_model_loads():
    with server_process("loading") as (process, client):
        assert client.get("/readyz").json() == {"status": "loading"}
        assert client.get("/livez").status_code == 200
        assert client.get("/metrics").status_code == 200
        refused = client.post("/v1/completions", json=BODY)
        assert refused.status_code == 503 and "retry-after" in refused.headers
        wait_ready(client)
        assert client.post("/v1/completions", json=BODY | {"max_tokens": 1}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_engine_that_does_not_start_is_one_line_and_exit_1():
    with server_process("broken") as (process, _):
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 1
        assert "model.safetensors is truncated" in errors and "Traceback" not in errors


def answer_on(connection: socket.socket) -> bytes:
    """The reply to a request on an open connection; nothing when the server has closed it."""
    connection.settimeout(20)
    try:
        connection.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        return connection.recv(65536)
    except ConnectionError:
        return b""


def test_lack_of_file_descriptors_is_logged_once_and_passes():
    with server_process("slow", descriptors=64) as (process, client):
        wait_ready(client)
        address = "127.0.0.1", client.base_url.port
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(socket.create_connection(address)) for _ in range(100)]
            answers = [answer_on(connection) for connection in connections]
        assert any(answers) and not all(answers)
        end_s, answer = time.monotonic() + 20, b""
        while not answer:  # the server has to see first that the others are gone
            assert time.monotonic() < end_s
            with socket.create_connection(address) as connection:
                answer = answer_on(connection)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    (warning,) = [line for line in errors.splitlines() if "file descriptors" in line]
    assert "WARNING" in warning and "64" in warning
    assert "Traceback" not in errors


def test_bind_takes_every_address_of_the_host_with_one_port():
    sockets = bind("localhost", 0)
    try:
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        assert all(sock.getsockname()[0] in ("127.0.0.1", "::1") for sock in sockets)
    finally:
        for sock in sockets:
            sock.close()


def test_bind_says_when_the_port_is_taken():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", taken.getsockname()[1])


def test_port_that_is_taken_is_named_and_ends_the_server_with_1(caplog):
    async def nothing() -> None:
        raise OSError("no engine")

    with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level("ERROR", "fastserve"):
        port = taken.getsockname()[1]
        assert lifecycle.serve(nothing, ServerConfig(port=port), "fake") == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in caplog.text


@pytest.mark.parametrize(("host", "warned"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_open_address_without_a_key_is_warned_of(host, warned, caplog):
    async def nothing() -> None:
        raise OSError("no engine")

    with caplog.at_level("WARNING", "fastserve"):
        assert lifecycle.serve(nothing, ServerConfig(host=host, port=0), "fake") == 1
    assert ("FASTSERVE_API_KEY" in caplog.text) == warned
