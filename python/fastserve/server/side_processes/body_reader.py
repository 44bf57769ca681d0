"""Long request bodies, parsed and checked off the event loop."""

import asyncio

import msgspec

from fastserve.server.errors import ApiError, bad_request
from fastserve.server.requests.schema import Conversation
from fastserve.server.requests.validation import BodyT
from fastserve.server.side_processes.side_pool import SidePool

READ_LIMIT_S = 10.0
NUM_PROCESSES = 2

# In the place of messages that are known to be right and stay as the side process packed them.
_STAND_IN = [{"role": "user", "content": ""}]


class BodyReader:
    """Reads bodies in side processes, and builds from what is left of them."""

    def __init__(self) -> None:
        self._pool = SidePool("fastserve.server.side_processes.body_process", NUM_PROCESSES, what="reading the body")

    async def read(
        self, model: type[BodyT], body: bytes, max_model_len: int, ignored: list[str] | None = None
    ) -> BodyT:
        """Return the checked body; none of its lists of token ids is longer than a context. `ignored`: see `parse_request`.

        Raises:
            ApiError: 400 that says what is wrong.
            OverloadedError, RequestFailedError: see `SidePool.ask`.
        """
        request = msgspec.msgpack.encode((model.__name__, max_model_len, ignored is None, body))
        try:
            answer = msgspec.msgpack.decode(await self._pool.ask(request, READ_LIMIT_S))
        except TimeoutError:
            message = f"the body must be read within {READ_LIMIT_S:g} s and was not; send less in one request"
            raise bad_request(message, code="timeout") from None
        if len(answer) > 3:
            status, message, kind, param, code, headers = answer
            raise ApiError(status, message, kind=kind, param=param, code=code, headers=headers)
        fields = msgspec.json.decode(answer[0])
        rows = answer[1]
        if ignored is not None:
            ignored += answer[2]
        await asyncio.sleep(0)  # a million ids take 10 ms up to here, and 10 ms from here: let other tasks run
        built = model.model_validate(fields | {"messages": _STAND_IN} if rows else fields)
        if rows and isinstance(built, Conversation):
            built.put_rows(rows)
        return built

    def pids(self) -> list[int]:
        """Process ids of the side processes."""
        return self._pool.pids()

    def close(self) -> None:
        """End the side processes."""
        self._pool.close()
