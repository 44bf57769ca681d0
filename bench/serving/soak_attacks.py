"""`python -m bench.serving.soak_attacks PORT`: every attack of the soak, again and again, until the process is ended.

Each kind runs at a pace of its own, so that a window of attacks is not a window without CPU time for anybody. What a server may
accept asks for few tokens: the soak is about what the server does besides serving.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable

from bench.serving.hostile_wire import CRLF, Attack
from bench.serving.wire_client import perform

LIMIT_S = 30.0
SLOW_READERS = 8
PAUSE_S = 4.0


def _request(path: str, body: bytes, method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _json(path: str, **fields: object) -> bytes:
    return _request(path, json.dumps(fields).encode())


def _list_of(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


def _chunked(first: str, *pieces: bytes) -> bytes:
    return f"{first} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode() + b"".join(pieces)


_TRAILERS = b"0\r\n" + b"".join(b"a%d: b\r\n" % i for i in range(200_000))
_BOMBS = ["a" * 900_000, "b" * 900_000, "c" * 900_000, "ab" * 450_000]
_STREAM = {"prompt": "hi", "stream": True, "ignore_eos": True, "max_tokens": 900}
_TEXT = "word " * 800_000

ATTACKS: dict[str, Attack] = {
    "trailers on /health": Attack("", _chunked("GET /health", _TRAILERS)),
    "trailers on a completion": Attack("", _chunked("POST /v1/completions", _TRAILERS)),
    "one trailer without end": Attack("", _chunked("GET /nowhere", b"0\r\na: ", b"x" * 3_000_000)),
    "pipelined": Attack("", b"GET / HTTP/1.1\r\n\r\n" * (3_000_000 // 18), ends=False),
    "many headers": Attack("", b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 16_000 + CRLF),
    "body of a GET": Attack("", _request("/health", b"x" * 4_000_000, "GET")),
    "stop bomb": Attack("", _json("/v1/completions", prompt="hi", n=16, max_tokens=4, stop=_BOMBS)),
    "stop strings of the longest kind": Attack(
        "", _json("/v1/completions", prompt="hi", max_tokens=4, stop=[c * 1023 + "z" for c in "abcd"])
    ),
    "million empty lists": Attack("", _request("/v1/completions", b'{"prompt":' + _list_of(b"[]", 1_000_000) + b"}")),
    "100,000 id lists": Attack("", _request("/v1/completions", b'{"prompt":' + _list_of(b"[1,2]", 100_000) + b"}")),
    "2 million ids": Attack("", _request("/v1/completions", b'{"prompt":' + _list_of(b"1", 1_999_000) + b"}")),
    "2 million ids to detokenize": Attack("", _request("/detokenize", b'{"tokens":' + _list_of(b"1", 1_999_000) + b"}")),
    "prompt of 4 MB": Attack("", _json("/v1/completions", prompt=_TEXT, max_tokens=4)),
    "message of 4 MB": Attack("", _json("/v1/chat/completions", messages=[{"role": "user", "content": _TEXT}], max_tokens=4)),
    "text of 4 MB to tokenize": Attack("", _json("/tokenize", prompt=_TEXT)),
    "4096 messages": Attack(
        "", _json("/v1/chat/completions", messages=[{"role": "user", "content": "x" * 900}] * 4096, max_tokens=4)
    ),
    "name of 3 MB": Attack("", _json("/v1/completions", prompt="hi", **{"x" * 3_000_000: 1})),
    "300,000 fields": Attack("", _json("/v1/completions", **{f"a{i}": 1 for i in range(300_000)})),
    "dropped upload": Attack("", _request("/v1/completions", b"{" + b" " * 3_000_000)[:2_000_000], ends=False),
    "reset upload": Attack("", _request("/tokenize", b"{" + b" " * 3_000_000)[:2_000_000], ends=False, resets=True),
    "reset stream": Attack("", _json("/v1/completions", **_STREAM), ends=False, resets=True),
}  # fmt: skip


async def attack_until_ended(port: int) -> None:
    """Run all attacks side by side."""
    attackers: list[Callable[[], Awaitable[None]]] = [lambda a=a: _repeat(a, port) for a in ATTACKS.values()]
    attackers += [lambda: _read_slowly(port)] * SLOW_READERS
    async with asyncio.TaskGroup() as group:
        for number, start in enumerate(attackers):
            group.create_task(_later(number * PAUSE_S / len(attackers), start))


async def _later(delay_s: float, start: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(delay_s)
    await start()


async def _repeat(attack: Attack, port: int) -> None:
    while True:
        with contextlib.suppress(OSError):  # no connection: the soak's honest requests tell whether the server is gone
            await perform(attack, port, LIMIT_S)
        await asyncio.sleep(PAUSE_S)


async def _read_slowly(port: int) -> None:
    """Ask for a long stream and read a few bytes of it a second."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(_json("/v1/completions", **_STREAM))
            for _ in range(30):
                await reader.read(16)
                await asyncio.sleep(1)
            writer.transport.abort()
        except OSError:
            await asyncio.sleep(1)


def main() -> int:
    """Attack the server on a loopback port."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    asyncio.run(attack_until_ended(parser.parse_args().port))
    return 0


if __name__ == "__main__":
    sys.exit(main())
