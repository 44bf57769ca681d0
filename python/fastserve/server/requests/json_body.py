"""Reading a request body within limits, and strict JSON."""

import asyncio
import time

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from fastserve.server.errors import ApiError, ClientGoneError, bad_request
from fastserve.server.requests.body_shape import MAX_JSON_DEPTH, check_depth, check_parts, too_deep

BODY_TIMEOUT_S = 30.0
# After a body is found too large, so much more of it is read and thrown away before the 413: a client that writes
# its whole body before it reads would otherwise see a reset connection instead of the reply.
DISCARD_FACTOR = 8
DISCARD_TIMEOUT_S = 2.0


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """Read the whole body; never holds more than `max_bytes` plus one network chunk.

    Raises:
        ApiError: 413 above the limit (from Content-Length before reading, or while reading), 408 when the body does
            not arrive within `BODY_TIMEOUT_S`, 400 on a bad Content-Length.
        ClientGoneError: the client left first.
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(scope, receive, max_bytes)
    except TimeoutError:
        message = f"the request body must arrive within {BODY_TIMEOUT_S:g} s"
        raise ApiError(408, message, kind="timeout_error", code="body_timeout", headers=_CLOSE) from None
    except ClientDisconnect:
        raise ClientGoneError from None


_CLOSE = {"Connection": "close"}


async def _read(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    headers = dict(scope["headers"])
    declared = headers.get(b"content-length", b"0")
    if not declared.isdigit():
        raise bad_request("Content-Length must be a number of bytes")
    if int(declared) > max_bytes:
        if b"expect" not in headers:
            await _discard(receive, max_bytes * DISCARD_FACTOR)
        raise _too_large(max_bytes)
    body = bytearray()
    more = True
    while more:
        message = await _next(receive)
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > max_bytes:
            body.clear()
            if more:
                await _discard(receive, max_bytes * DISCARD_FACTOR)
            raise _too_large(max_bytes)
    return bytes(body)


async def _next(receive: Receive) -> Message:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message


async def _discard(receive: Receive, budget_bytes: int) -> None:
    end_s = time.monotonic() + DISCARD_TIMEOUT_S
    while budget_bytes > 0 and (left_s := end_s - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(_next(receive), left_s)
        except TimeoutError:
            return
        budget_bytes -= len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _too_large(max_bytes: int) -> ApiError:
    message = f"the request body must be at most {max_bytes} bytes; send less or raise --max-body-bytes"
    return ApiError(413, message, code="body_too_large", headers=_CLOSE)


def parse_object(body: bytes) -> dict[str, object]:
    """Parse a JSON object: UTF-8, no NaN or Infinity, as many parts and as deep as `body_shape` allows.

    Raises:
        ApiError: 400 that says what is wrong.
    """
    check_parts(body)
    try:
        value = msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise bad_request(f"the body must be UTF-8: bad byte at offset {error.start}", code="invalid_utf8") from None
    except RecursionError:
        raise too_deep() from None
    except msgspec.DecodeError as error:  # ValidationError, for numbers out of range, is one
        raise bad_request(f"the body must be JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise bad_request(f"the body must be a JSON object, got {type(value).__name__}", code="invalid_json")
    # A body with few brackets cannot be deep; only the others pay for the walk.
    if body.count(b"[") + body.count(b"{") > MAX_JSON_DEPTH:
        check_depth(value)
    return value
