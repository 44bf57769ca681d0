"""A model hub on this machine: as much of Hugging Face's HTTP interface as its client needs for a snapshot."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class FakeHub(ThreadingHTTPServer):
    """Serves folders as repositories.

    Attributes:
        repositories: id -> folder.
        requests: paths that were asked for.
        stalled: file names whose bodies do not come until `release` is set.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Path] = {}
        self.requests: list[str] = []
        self.stalled: set[str] = set()
        self.stalling = threading.Event()
        self.release = threading.Event()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, model: str) -> str:
        """The one commit of a repository."""
        return hashlib.sha1(model.encode()).hexdigest()


@contextmanager
def running_hub() -> Iterator[FakeHub]:
    """A hub while the context lasts."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(path)
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self._describe("/".join(parts[2:4]), parts[4:], with_body)
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), parts[3], "/".join(parts[4:]), with_body)
        else:
            self._send(404, b"", with_body)

    def _describe(self, model: str, what: list[str], with_body: bool) -> None:
        folder = self._folder(model, what[1] if len(what) > 1 else "main", with_body)
        if folder is None:
            return
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        names = [str(file.relative_to(folder)) for file in files]
        if what[:1] == ["tree"]:
            answer: object = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": _etag(file)}
                for name, file in zip(names, files, strict=True)
            ]
        else:
            siblings = [{"rfilename": name} for name in names]
            answer = {"id": model, "modelId": model, "sha": self.server.commit(model), "siblings": siblings}
        self._send(200, json.dumps(answer).encode(), with_body, {"Content-Type": "application/json"})

    def _file(self, model: str, revision: str, name: str, with_body: bool) -> None:
        folder = self._folder(model, revision, with_body)
        if folder is None:
            return
        headers = {"ETag": f'"{_etag(folder / name)}"', "X-Repo-Commit": self.server.commit(model)}
        if with_body and name in self.server.stalled:
            self.server.stalling.set()
            self.server.release.wait()
        self._send(200, (folder / name).read_bytes(), with_body, headers)

    def _folder(self, model: str, revision: str, with_body: bool) -> Path | None:
        folder = self.server.repositories.get(model)
        if folder is None:
            self._send(404, b"", with_body, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", self.server.commit(model)):
            self._send(404, b"", with_body, {"X-Error-Code": "RevisionNotFound"})
            return None
        return folder

    def _send(self, status: int, body: bytes, with_body: bool, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()
