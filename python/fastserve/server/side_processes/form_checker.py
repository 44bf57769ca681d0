"""Forms of outputs, checked before they reach the engine, off the event loop and within limits of time and memory."""

import asyncio
from collections import OrderedDict

import msgspec

from fastserve.errors import InvalidArgumentError
from fastserve.grammars.vocabulary import token_table
from fastserve.server.protocols import EngineProtocol
from fastserve.server.side_processes.side_pool import SidePool
from fastserve.types import StructuredOutputs

CHECK_LIMIT_S = 10.0
MAX_KNOWN = 256
NUM_PROCESSES = 1  # it holds torch, which xgrammar imports


class FormChecker:
    """Compiles forms in a side process, as the engine will: what takes the process too long never reaches the engine.

    A form that was right is remembered; requests for the same form wait for one check.
    """

    def __init__(self, engine: EngineProtocol) -> None:
        """Start nothing yet."""
        self._engine = engine
        self._pool: SidePool | None = None
        self._opening = asyncio.Lock()
        self._known: OrderedDict[StructuredOutputs, None] = OrderedDict()
        self._running: dict[StructuredOutputs, asyncio.Task[None]] = {}

    async def check(self, form: StructuredOutputs) -> None:
        """Return when the form is right.

        Raises:
            InvalidArgumentError: it cannot be used; the message says why, and begins with the field of the form.
            OverloadedError, RequestFailedError: see `SidePool.ask`.
        """
        if form in self._known:
            self._known.move_to_end(form)
            return
        check = self._running.get(form)
        if check is None:
            check = self._running[form] = asyncio.create_task(self._ask(form))
            check.add_done_callback(lambda done: self._note(form, done))
        await asyncio.shield(check)

    def pids(self) -> list[int]:
        """Process ids of the side processes."""
        return [] if self._pool is None else self._pool.pids()

    def close(self) -> None:
        """End the side process, whatever it compiles."""
        if self._pool is not None:
            self._pool.close()

    async def _ask(self, form: StructuredOutputs) -> None:
        try:
            request = msgspec.msgpack.encode(form)
        except UnicodeEncodeError as error:
            raise InvalidArgumentError(f"structured_outputs must be valid Unicode: {error}") from None
        pool = await self._open()
        try:
            refusal = await pool.ask(request, CHECK_LIMIT_S)
        except TimeoutError:
            raise InvalidArgumentError(
                f"structured_outputs must be compiled within {CHECK_LIMIT_S:g} s and was not; simplify it: fewer optional"
                " properties, shorter lists of choices"
            ) from None
        if refusal:
            raise InvalidArgumentError(refusal.decode())

    async def _open(self) -> SidePool:
        async with self._opening:
            if self._pool is None:
                info = self._engine.info
                table = await asyncio.to_thread(token_table, self._engine.tokenizer, info.vocab_size)
                self._pool = SidePool(
                    "fastserve.server.side_processes.form_process",
                    NUM_PROCESSES,
                    what="compiling structured_outputs",
                    setup=msgspec.msgpack.encode((table, info.eos_token_ids)),
                )
        return self._pool

    def _note(self, form: StructuredOutputs, done: "asyncio.Task[None]") -> None:
        self._running.pop(form, None)
        if not done.cancelled() and done.exception() is None:
            self._known[form] = None
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
