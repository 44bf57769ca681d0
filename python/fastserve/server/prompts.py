"""From the prompts of a request to checked token ids; long texts and chat templates are worked on off the loop."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from fastserve.errors import OverloadedError
from fastserve.server.engine_face import EngineFace
from fastserve.server.errors import bad_request, context_overflow, prompt_overflow
from fastserve.server.messages import ChatMessage
from fastserve.server.schema import TokenIds

# Below this, tokenizing takes less than the hop to a thread and back.
INLINE_TEXT_CHARS = 1024
TEMPLATE_TIMEOUT_S = 5.0
TOKENIZE_TIMEOUT_S = 60.0
NUM_TEXT_THREADS = 4

P = ParamSpec("P")
T = TypeVar("T")


class TextWorker:
    """A few threads for text work, so that no template and no long prompt stops the streams of others."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(NUM_TEXT_THREADS, thread_name_prefix="fastserve-text")

    async def run(self, what: str, timeout_s: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on a thread for at most `timeout_s`; a thread that takes longer is left to end by itself.

        Raises:
            ApiError: 400, the work itself takes too long.
            OverloadedError: it did not even start, because earlier work holds all threads.
        """
        future = self._threads.submit(functools.partial(work, *args, **kwargs))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
        except TimeoutError:
            if future.cancelled():
                raise OverloadedError(f"{what} waited longer than {timeout_s:g} s for a thread; try again") from None
            raise bad_request(f"{what} must take at most {timeout_s:g} s; send less text", code="timeout") from None

    def close(self) -> None:
        """Let the threads end; does not wait for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class PromptReader:
    """Turns prompts into token ids that the engine takes."""

    def __init__(self, engine: EngineFace, worker: TextWorker) -> None:
        self._tokenizer = engine.tokenizer
        self._info = engine.info
        self._worker = worker

    async def encode(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        """Tokenize a text of any length."""
        if len(text) <= INLINE_TEXT_CHARS:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await self._worker.run(
            "tokenizing the prompt",
            TOKENIZE_TIMEOUT_S,
            self._tokenizer.encode,
            text,
            add_special_tokens=add_special_tokens,
        )

    async def read(self, prompt: str | TokenIds, *, add_special_tokens: bool) -> TokenIds:
        """Token ids of a text or id prompt, checked with `check`."""
        ids = prompt if isinstance(prompt, list) else await self.encode(prompt, add_special_tokens=add_special_tokens)
        self.check(ids, "prompt")
        return ids

    async def read_chat(
        self, messages: list[ChatMessage], *, add_generation_prompt: bool, add_special_tokens: bool
    ) -> TokenIds:
        """Render the chat template and tokenize.

        Raises:
            ApiError: 400, no template, refused by the template, or too long.
        """
        rows = [message.as_template_row() for message in messages]
        text = await self._worker.run(
            "rendering the chat template",
            TEMPLATE_TIMEOUT_S,
            self._tokenizer.render_chat,
            rows,
            add_generation_prompt=add_generation_prompt,
        )
        ids = await self.encode(text, add_special_tokens=add_special_tokens)
        self.check(ids, "messages")
        return ids

    def check(self, ids: TokenIds, param: str) -> None:
        """Refuse empty prompts, ids outside the vocabulary, and prompts that leave no room for a token.

        Raises:
            ApiError: 400.
        """
        limit = self._info.max_model_len
        if not ids:
            raise bad_request(f"{param} must have at least one token, got none", param, "invalid_value")
        if len(ids) >= limit:
            raise prompt_overflow(limit, f"{len(ids)} tokens", param)
        self.check_vocabulary(ids, param)

    def check_vocabulary(self, ids: TokenIds, param: str) -> None:
        """Refuse ids outside the vocabulary.

        Raises:
            ApiError: 400.
        """
        if min(ids) < 0 or max(ids) >= self._info.vocab_size:
            message = f"{param} must hold token ids between 0 and {self._info.vocab_size - 1}"
            raise bad_request(message, param, "invalid_value")

    def fit_max_tokens(self, ids: TokenIds, asked: int | None, default: int | None, min_tokens: int = 0) -> int:
        """The most tokens to produce after this prompt: as asked, or the default, cut to the context.

        Args:
            asked: the request's value; None = not given.
            default: used when not given; None = up to the context.
            min_tokens: that the request insists on.

        Raises:
            ApiError: 400, `asked` is longer than the context, or `min_tokens` than what the prompt leaves of it.
        """
        limit = self._info.max_model_len
        if asked is not None and asked > limit:
            raise context_overflow(limit, f"max_tokens asks for {asked} output tokens; lower max_tokens", "max_tokens")
        room = limit - len(ids)
        if min_tokens > room:
            however = (
                f"{len(ids)} prompt tokens leave room for {room} output tokens, and min_tokens asks for {min_tokens}"
            )
            raise context_overflow(limit, f"{however}; shorten the prompt or lower min_tokens", "min_tokens")
        wanted = default if asked is None else asked
        return room if wanted is None else min(wanted, room)
