"""A client without manners: sends raw bytes, reads raw bytes, leaves when it likes."""

import asyncio
import contextlib
import re
import socket
import struct
from dataclasses import dataclass

from bench.serving.hostile_wire import Attack

LOOK_S = 0.2
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_FAULT = re.compile(rb'"code":\s?"(internal|request_failed|engine_dead)"')


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        statuses: of all replies on the connection.
        fault: an error event or reply that blames the server.
        hung: the server neither answered nor closed in time.
    """

    statuses: tuple[int, ...]
    fault: bool
    hung: bool


async def perform(attack: Attack, port: int, limit_s: float) -> Answer:
    """Run one attack on a new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received, hung = bytearray(), False
    sending = asyncio.create_task(_send(writer, attack.data))
    try:
        async with asyncio.timeout(limit_s if attack.ends else LOOK_S):
            while piece := await reader.read(1 << 16):
                received += piece
    except TimeoutError:
        hung = attack.ends
    except ConnectionError:
        pass
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        _leave(writer, resets=attack.resets)
    statuses = tuple(int(status) for status in _STATUS.findall(received))
    return Answer(statuses, _FAULT.search(received) is not None, hung)


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        await writer.drain()


def _leave(writer: asyncio.StreamWriter, *, resets: bool) -> None:
    if resets:
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
