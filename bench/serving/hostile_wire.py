"""What a hostile peer puts on the wire: hostile bodies in honest and in broken HTTP/1.1, cut, piled up, with trailers."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from bench.serving.hostile_bodies import hostile_body

CRLF = b"\r\n"


@dataclass(frozen=True, slots=True)
class Attack:
    """Bytes for one connection.

    Attributes:
        kind: for the summary.
        data: what is sent.
        ends: the server must answer and close by itself; otherwise the client leaves, in the middle of it.
        resets: it leaves with a reset instead of an end.
    """

    kind: str
    data: bytes
    ends: bool = True
    resets: bool = False


def attack(seed: int, index: int) -> Attack:
    """Draw the attack of this number."""
    rng = random.Random(f"{seed}:{index}")
    path, body = hostile_body(rng)
    if rng.random() < 0.6:
        return Attack("body", _post(path, body, f"content-length: {len(body)}"))
    kind = rng.choice(list(_KINDS))
    return _KINDS[kind](rng, path, body, kind)


def _post(path: str, body: bytes, *fields: str, method: str = "POST") -> bytes:
    return _head(f"{method} {path} HTTP/1.1", *fields, "connection: close") + body


def _head(first: str, *fields: str) -> bytes:
    return "\r\n".join([first, "host: x", *fields, "", ""]).encode("latin-1", errors="replace")


def _chunks(rng: random.Random, body: bytes, extension: bytes = b"") -> bytes:
    pieces, place = [], 0
    while place < len(body):
        size = rng.choice((1, 7, 1000, 100_000))
        piece = body[place : place + size]
        pieces.append(b"%x%s\r\n%s\r\n" % (len(piece), extension, piece))
        place += size
        if len(pieces) > 2000:  # enough of small ones
            pieces.append(b"%x\r\n%s\r\n" % (len(body) - place, body[place:]) if place < len(body) else b"")
            break
    return b"".join(pieces)


def _chunked(rng: random.Random, path: str, body: bytes, kind: str) -> Attack:
    extension = b";name=value" if kind == "chunk extensions" else b""
    trailers = {
        "chunked with trailers": b"x-a: b\r\nexpect: 100-continue\r\n",
        "chunked with endless trailers": b"".join(b"a%d: b\r\n" % i for i in range(30_000)),
        "chunked with a long trailer": b"a: " + b"x" * 300_000 + CRLF,
    }.get(kind, b"")
    data = _post(path, _chunks(rng, body, extension) + b"0\r\n" + trailers + CRLF, "transfer-encoding: chunked")
    return Attack(kind, data)


def _broken_chunks(rng: random.Random, path: str, body: bytes, kind: str) -> Attack:
    size = rng.choice((b"zz", b"-1", b"FFFFFFFFFFFFFFFFFF", b"1" * 70_000, b"", b" 5", b"0x5"))
    data = _post(path, size + CRLF + body[:1000] + CRLF, "transfer-encoding: chunked")
    return Attack(kind, data, ends=False)


def _left(rng: random.Random, path: str, body: bytes, kind: str) -> Attack:
    data = _post(path, body, f"content-length: {len(body)}")
    return Attack(kind, data[: rng.randrange(1, len(data))], ends=False, resets=kind == "reset within")


def _left_waiting(rng: random.Random, path: str, body: bytes, kind: str) -> Attack:
    data = _post(path, body, f"content-length: {len(body)}")
    return Attack(kind, data, ends=False, resets=rng.random() < 0.5)


def _pipelined(rng: random.Random, path: str, body: bytes, kind: str) -> Attack:
    first = _head(f"POST {path} HTTP/1.1", f"content-length: {len(body)}") + body
    others = b"".join(_head(f"GET {rng.choice(_PATHS)} HTTP/1.1") for _ in range(rng.choice((1, 30, 300))))
    last = _head("GET /livez HTTP/1.1", "connection: close")
    return Attack(kind, first + others + last, ends=kind == "pipelined", resets=rng.random() < 0.5)


def _lengths(rng: random.Random, path: str, body: bytes, kind: str) -> Attack:
    fields = rng.choice(
        (
            [f"content-length: {len(body)}", f"content-length: {len(body) + 1}"],
            [f"content-length: {len(body)}", "transfer-encoding: chunked"],
            [f"content-length: {max(0, len(body) - 7)}"],
            [f"content-length: {len(body) + 7}"],
            ["content-length: -5"],
            ["content-length: 99999999999999999999999"],
            ["content-length: abc"],
            ["transfer-encoding: gzip, chunked"],
            [],
        )
    )
    return Attack(kind, _post(path, body, *fields), ends=False)


def _heads(rng: random.Random, path: str, body: bytes, kind: str) -> Attack:
    heads = [
        _head("GET /health HTTP/1.1", *[f"a{i}: b" for i in range(500)]),
        _head("GET /health HTTP/1.1", "a: " + "x" * 100_000),
        _head("GET /" + "x" * 100_000 + " HTTP/1.1"),
        _head("GET /%ff%00%2e%2e/ HTTP/1.1"),
        _head("GET http://other/health HTTP/1.1"),
        _head("GET /health?" + "a=b&" * 5000 + " HTTP/1.1"),
        _head("GET /health HTTP/1.1", "no colon"),
        _head("GET /health HTTP/1.1", "a: b\r\n c: folded"),
        _head("GET /health HTTP/1.1", "a: \0"),
        _head("GET /health HTTP/9.9"),
        _head("CONNECT /health:80 HTTP/1.1"),
        _head("NONSENSE /health HTTP/1.1"),
        _head("GET /v1/models HTTP/1.1", "upgrade: websocket", "connection: upgrade"),
        _head(f"POST {path} HTTP/1.1", "expect: 100-continue", f"content-length: {len(body)}"),
        _head("OPTIONS * HTTP/1.1"),
        b"GET /health\r\n\r\n",
        b"GET /health HTTP/1.1\nhost: x\n\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
        rng.randbytes(rng.choice((1, 100, 100_000))),
        CRLF * 50_000,
    ]
    return Attack(kind, rng.choice(heads), ends=False)


def _body_of_get(rng: random.Random, path: str, body: bytes, kind: str) -> Attack:
    return Attack(kind, _post(rng.choice(_PATHS), body, f"content-length: {len(body)}", method="GET"))


def _other_route(rng: random.Random, path: str, body: bytes, kind: str) -> Attack:
    method = rng.choice(("GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "POST"))
    return Attack(kind, _post(rng.choice(_PATHS), body, f"content-length: {len(body)}", method=method))


_PATHS = [
    "/health",
    "/livez",
    "/v1/models",
    "/v1/models/x",
    "/metrics",
    "/nowhere",
    "/v1/requests/x/explain",
    "/openapi.json",
    "/",
]
_KINDS: dict[str, Callable[[random.Random, str, bytes, str], Attack]] = {
    "chunked": _chunked,
    "chunk extensions": _chunked,
    "chunked with trailers": _chunked,
    "chunked with endless trailers": _chunked,
    "chunked with a long trailer": _chunked,
    "broken chunks": _broken_chunks,
    "left within": _left,
    "reset within": _left,
    "left waiting": _left_waiting,
    "pipelined": _pipelined,
    "pipelined and left": _pipelined,
    "lengths": _lengths,
    "heads": _heads,
    "body of a GET": _body_of_get,
    "other route": _other_route,
}
