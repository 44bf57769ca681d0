"""Where and how a server listens, by its flags: a path, TLS, a prefix of paths, pages of other origins, several names."""

import errno
import re
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fastserve.config import ServerConfig
from fastserve.server.listening import bind_path, open_sockets
from tests.unit.server.conftest import live_server
from tests.unit.server.process import wait_ready

KEY = {"Authorization": "Bearer secret"}


@contextmanager
def serving(*flags: str) -> Iterator[tuple[subprocess.Popen, str]]:
    """Start `fastserve serve m FLAGS` over a fake engine; yields it and where it says that it listens."""
    command = [sys.executable, "-m", "tests.unit.server.fake_serve", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith("listening on "), process.stderr.read()
        yield process, line.removeprefix("listening on ").strip()
    finally:
        process.kill()
        process.communicate()


def refusal(*flags: str) -> str:
    """The one line with which `fastserve serve` refuses its flags."""
    command = [sys.executable, "-m", "tests.unit.server.fake_serve", "--port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    return done.stderr


def complete(client: httpx.Client, model: str) -> httpx.Response:
    return client.post("/v1/completions", json={"model": model, "prompt": "hi", "max_tokens": 1})


def test_uds_listens_on_a_path_which_goes_with_the_server(tmp_path):
    path = tmp_path / "fastserve.sock"
    abandoned = bind_path(str(path))
    abandoned.close()
    with serving("--uds", str(path)) as (process, where):
        assert where == f"unix:{path}" and stat.S_ISSOCK(path.stat().st_mode)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://fastserve") as client:
            wait_ready(client)
            assert complete(client, "m").status_code == 200
            with pytest.raises(OSError, match="in use"):
                bind_path(str(path))
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 0 and not path.exists()
    assert "anyone who reaches" not in log


def test_uds_leaves_what_is_no_socket(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        bind_path(str(path))
    assert path.read_text() == "mine"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    """A folder with certificates and keys: of an authority, and signed by it those of a server and of a client."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    usage = "keyUsage=critical,keyCertSign"  # without it Python 3.13 trusts no authority
    openssl(
        *new, "-x509", "-days", "2", "-subj", "/CN=authority", "-addext", usage, "-keyout", "ca.key", "-out", "ca.pem"
    )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = (
            "x509",
            "-req",
            "-days",
            "2",
            "-in",
            f"{name}.csr",
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
        )
        openssl(*sign, "-extfile", "names", "-out", f"{name}.pem")
    (folder / "both.pem").write_text((folder / "server.pem").read_text() + (folder / "server.key").read_text())
    return folder


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "ca.pem"))


def test_tls_is_served_with_a_certificate(certificates):
    cipher = "ECDHE-ECDSA-CHACHA20-POLY1305"
    flags = ["--ssl-certfile", str(certificates / "both.pem"), "--ssl-ciphers", cipher]
    with serving("--port", "0", *flags) as (_, where):
        assert where.startswith("https://127.0.0.1:")
        with httpx.Client(verify=trusting(certificates), base_url=where) as client:
            wait_ready(client)
            assert complete(client, "m").status_code == 200
            body = {"prompt": "hi", "max_tokens": 1, "stream": True}
            assert client.post("/v1/completions", json=body).text.endswith("data: [DONE]\n\n")
        with pytest.raises(httpx.ConnectError, match="certificate"):
            httpx.get(f"{where}/health")
        host, port = re.search(r"https://(.*):(\d+)", where).groups()
        old = trusting(certificates)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection((host, int(port))) as plain,
            old.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            assert wrapped.cipher()[0] == cipher


def test_a_certificate_of_clients_may_be_required(certificates):
    flags = ["--ssl-certfile", str(certificates / "server.pem"), "--ssl-keyfile", str(certificates / "server.key")]
    flags += ["--ssl-ca-certs", str(certificates / "ca.pem"), "--ssl-cert-reqs", "2"]
    with serving("--port", "0", *flags) as (_, where):
        with pytest.raises((httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError)):
            httpx.get(f"{where}/livez", verify=trusting(certificates))
        known = trusting(certificates)
        known.load_cert_chain(certificates / "client.pem", certificates / "client.key")
        assert httpx.get(f"{where}/livez", verify=known).status_code == 200


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--ssl-keyfile", "server.key"], "ssl_keyfile needs ssl_certfile"),
        (["--ssl-ciphers", "ALL"], "ssl_ciphers needs ssl_certfile"),
        (["--ssl-certfile", "nowhere.pem"], "nowhere.pem cannot be used"),
        (["--ssl-certfile", "server.pem", "--ssl-keyfile", "client.key"], "client.key cannot be used"),
        (["--ssl-certfile", "both.pem", "--ssl-ciphers", "none"], "ssl_ciphers none cannot be used"),
        (["--ssl-certfile", "both.pem", "--ssl-ca-certs", "ca.pem"], "ssl_ca_certs needs ssl_cert_reqs"),
        (
            ["--ssl-certfile", "both.pem", "--ssl-ca-certs", "server.key", "--ssl-cert-reqs", "2"],
            "server.key cannot be used",
        ),
        (["--ssl-certfile", "both.pem", "--ssl-cert-reqs", "1"], "ssl_cert_reqs needs ssl_ca_certs"),
        (["--ssl-certfile", "both.pem", "--ssl-cert-reqs", "3"], "ssl_cert_reqs must be between 0 and 2"),
    ],
)
def test_tls_that_cannot_be_served_ends_the_start(certificates, flags, why):
    words = [str(certificates / word) if (certificates / word).exists() else word for word in flags]
    assert why in refusal(*words)


def test_pages_of_allowed_origins_may_send_requests_with_a_key():
    flags = ["--allowed-origins", '["https://chat.example"]', "--allowed-methods", "POST", "--allow-credentials"]
    asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with serving("--port", "0", "--api-key", "secret", *flags) as (_, where), httpx.Client(base_url=where) as client:
        wait_ready(client)
        ours, others = {"Origin": "https://chat.example"}, {"Origin": "https://evil.example"}
        preflight = client.options("/v1/completions", headers=ours | asking)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
        assert preflight.headers["access-control-allow-headers"] == "authorization"
        assert preflight.headers["access-control-allow-methods"] == "POST"
        assert preflight.headers["access-control-allow-credentials"] == "true"
        assert client.options("/v1/completions", headers=others | asking).status_code == 400
        denied = client.get("/v1/models", headers=ours)
        assert denied.status_code == 401 and denied.headers["access-control-allow-origin"] == "https://chat.example"
        allowed = client.get("/v1/models", headers=ours | KEY)
        assert allowed.status_code == 200 and allowed.headers["access-control-allow-origin"] == "https://chat.example"
        assert "access-control-allow-origin" not in client.get("/v1/models", headers=others | KEY).headers


def test_without_allowed_origins_no_page_may_send_requests():
    with serving("--port", "0") as (_, where):
        asking = {"Origin": "https://chat.example", "Access-Control-Request-Method": "POST"}
        reply = httpx.options(f"{where}/v1/completions", headers=asking)
        assert reply.status_code == 405 and "access-control-allow-origin" not in reply.headers


def test_root_path_is_stripped_and_stands_in_the_description():
    flags = ["--root-path", "/llm", "--api-key", "secret", "--served-model-name", "a"]
    with serving("--port", "0", *flags) as (_, where), httpx.Client(base_url=where) as client:
        wait_ready(client)
        for prefix in ("/llm", ""):
            assert client.get(f"{prefix}/health").status_code == 200
            assert client.get(f"{prefix}/v1/models").status_code == 401
            assert client.get(f"{prefix}/v1/models", headers=KEY).status_code == 200
        for path in ("/llm/llm/v1/models", "/llmv1/models", "/llm/health/../v1/models"):
            assert client.get(path).status_code == 401, path
        document = client.get("/llm/openapi.json", headers=KEY).json()
        assert document["servers"] == [{"url": "/llm"}]


async def test_a_root_path_may_be_the_beginning_of_our_own_paths(engine):
    async with live_server(engine, ServerConfig(root_path="/v1")) as live:
        for path in ("/v1/models", "/health", "/v1/models/fake"):
            for prefix in ("", "/v1"):
                assert (await live.http.get(prefix + path)).status_code == 200, prefix + path


async def test_refusals_behind_a_root_path_are_counted(engine):
    async with live_server(engine, ServerConfig(root_path="/llm", api_key=("secret",))) as live:
        for path in ("/llm/v1/completions", "/v1/completions"):
            assert (await live.http.post(path, json={})).status_code == 401
            assert (await live.http.post(path, json={}, headers=KEY)).status_code == 400
        text = (await live.http.get("/llm/metrics", headers=KEY)).text
        counts = dict(re.findall(r'fastserve:admission_rejections_total\{.*reason="(\w+)".*\} ([\d.]+)', text))
        assert (counts["unauthorized"], counts["invalid_request"]) == ("2.0", "2.0")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--allowed-origins", "*", "--allow-credentials"], "allow_credentials must not go with allowed_origins *"),
        (["--allowed-methods", "POST"], "allowed_methods needs allowed_origins"),
        (["--allowed-headers", "X-A"], "allowed_headers needs allowed_origins"),
        (["--allow-credentials"], "allow_credentials needs allowed_origins"),
    ],
)
def test_cors_settings_that_open_too_much_or_do_nothing_are_refused(flags, why):
    assert why in refusal(*flags)


def test_of_starters_at_a_stale_socket_one_gets_it(tmp_path):
    path = tmp_path / "fastserve.sock"
    abandoned = bind_path(str(path))
    abandoned.close()
    start, won, lost = threading.Barrier(8), [], []

    def begin() -> None:
        start.wait()
        try:
            won.append(bind_path(str(path)))
        except OSError as error:
            lost.append(error.errno)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and lost == [errno.EADDRINUSE] * 7
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))
    won[0].close()


@pytest.mark.parametrize("path", ["llm", "/llm/", "/"])
def test_a_root_path_of_another_form_is_refused(path):
    assert "root_path must begin with a slash" in refusal("--root-path", path)


def test_a_model_has_several_names_of_which_replies_have_the_first():
    flags = ["--served-model-name", "one", "two", "one"]
    with serving("--port", "0", *flags) as (_, where), httpx.Client(base_url=where) as client:
        wait_ready(client)
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["one", "two"]
        assert client.get("/v1/models/two").json()["id"] == "two"
        for name in ("one", "two"):
            assert complete(client, name).json()["model"] == "one"
        assert 'model_name="one"' in client.get("/metrics").text
        refused = complete(client, "m")
        assert refused.status_code == 404 and "this server has 'one', 'two'" in refused.text


def test_the_description_of_the_api_may_be_left_out():
    with serving("--port", "0", "--disable-fastapi-docs") as (_, where):
        assert httpx.get(f"{where}/openapi.json").status_code == 404


def test_what_the_http_library_says_is_logged_from_a_level_on():
    def log(*flags: str) -> str:
        with serving("--port", "0", *flags) as (process, where):
            with httpx.Client(base_url=where) as client:
                wait_ready(client)
            process.send_signal(signal.SIGTERM)
            return process.communicate(timeout=20)[1]

    assert "uvicorn" not in log()
    assert "INFO uvicorn.error" in log("--uvicorn-log-level", "info")


@pytest.mark.parametrize("on_a_path", [False, True])
def test_sockets_take_connections_before_the_server_runs(tmp_path, on_a_path):
    path = tmp_path / "fastserve.sock"
    (sock,) = open_sockets(ServerConfig(port=0, uds=str(path) if on_a_path else None))
    with sock, socket.socket(sock.family) as client:
        client.connect(sock.getsockname())
