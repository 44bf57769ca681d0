"""From the prompts of a request to checked token ids; long texts and chat templates are processed off the event loop."""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from fastserve.errors import OverloadedError
from fastserve.server.errors import bad_request, context_overflow, prompt_overflow
from fastserve.server.protocols import EngineProtocol
from fastserve.server.requests.schema import TokenIds
from fastserve.server.side_processes.chat_renderer import ChatRenderer
from fastserve.tokenizer.chat_template import TemplateOptions

# Below this, tokenizing takes less than the hop to a thread and back.
INLINE_TEXT_CHARS = 1024
# Below this, decoding takes less than a millisecond.
INLINE_TOKENS = 1024
TEXT_LIMIT_S = 60.0
NUM_TEXT_THREADS = 4
# /tokenize counts texts of any length up to here, whatever the context.
MAX_TOKENIZED_CHARS = 1 << 20
# No prompt may be longer, even where the tokenizer does not bound what a token stands for: no context holds so much.
MAX_PROMPT_CHARS = 1 << 26

P = ParamSpec("P")
T = TypeVar("T")


class TextThreads:
    """A few threads for work that releases the GIL: tokenizing long prompts, decoding long lists of ids."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(NUM_TEXT_THREADS, thread_name_prefix="fastserve-text")

    async def run(self, what: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` on a thread for at most `TEXT_LIMIT_S`; a thread that takes longer is left to end by itself.

        Raises:
            ApiError: 400, the work itself takes too long.
            OverloadedError: it did not even start, because earlier work holds all threads.
        """
        future = self._threads.submit(functools.partial(work, *args, **kwargs))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), TEXT_LIMIT_S)
        except TimeoutError:
            if future.cancelled():
                raise OverloadedError(f"{what} waited longer than {TEXT_LIMIT_S:g} s for a thread; try again") from None
            raise bad_request(f"{what} must take at most {TEXT_LIMIT_S:g} s; send less text", code="timeout") from None

    def close(self) -> None:
        """Let the threads end; does not wait for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class PromptReader:
    """Turns prompts into token ids that the engine accepts, and ids into text; long work runs off the event loop."""

    def __init__(self, engine: EngineProtocol, threads: TextThreads, renderer: ChatRenderer) -> None:
        self._tokenizer = engine.tokenizer
        self._info = engine.info
        self._threads = threads
        self._renderer = renderer

    def truncation(self, asked: int | None, max_tokens: int | None) -> int | None:
        """Tokens of the prompt that `truncate_prompt_tokens` keeps: -1 = what leaves room for the output; None = all."""
        return max(1, self._info.max_model_len - (max_tokens or 1)) if asked == -1 else asked

    async def read(self, prompt: str | TokenIds, *, add_special_tokens: bool, keep_last: int | None = None) -> TokenIds:
        """Token ids of a text or id prompt, checked with `check`.

        Args:
            prompt: as the client sent it.
            add_special_tokens: those that the tokenizer puts around a text.
            keep_last: leave out all tokens before the last so many.

        Raises:
            ApiError: 400; a text that is too long whatever it says is refused before it is tokenized.
        """
        if isinstance(prompt, str):
            self._check_chars(len(prompt), "prompt", truncated=keep_last is not None)
            ids = await self._encode(prompt, add_special_tokens=add_special_tokens)
        else:
            ids = prompt
            if len(ids) > INLINE_TOKENS:
                await asyncio.sleep(0)  # one request may have dozens of such prompts: let other tasks run
        ids = _last(ids, keep_last)
        self.check(ids, "prompt")
        return ids

    async def read_chat(
        self, rows: bytes, options: TemplateOptions, *, add_special_tokens: bool, keep_last: int | None = None
    ) -> tuple[TokenIds, str]:
        """Render the chat template and tokenize; return the ids and the text of the prompt.

        Args:
            rows: see `Conversation.template_rows`.
            options: what else the template gets.
            add_special_tokens: as for a prompt; templates write them themselves.
            keep_last: as for a prompt.

        Raises:
            ApiError: 400, no template, refused by the template, or too long.
        """
        text, num_chars = await self._renderer.render(
            rows,
            options,
            max_chars=self._max_chars if keep_last is None else MAX_TOKENIZED_CHARS,
        )
        self._check_chars(num_chars, "messages", truncated=keep_last is not None)
        ids = _last(await self._encode(text, add_special_tokens=add_special_tokens), keep_last)
        self.check(ids, "messages")
        return ids, text

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        """Token ids of a text that need not fit the context.

        Raises:
            ApiError: 400, more than `MAX_TOKENIZED_CHARS`.
        """
        _check_countable(len(text), "prompt")
        return await self._encode(text, add_special_tokens=add_special_tokens)

    async def tokenize_chat(self, rows: bytes, options: TemplateOptions, *, add_special_tokens: bool) -> TokenIds:
        """As `read_chat`, of a conversation that need not fit the context.

        Raises:
            ApiError: 400, also more than `MAX_TOKENIZED_CHARS`.
        """
        text, num_chars = await self._renderer.render(rows, options, max_chars=MAX_TOKENIZED_CHARS)
        _check_countable(num_chars, "messages")
        return await self._encode(text, add_special_tokens=add_special_tokens)

    async def decode(self, ids: TokenIds, *, skip_special_tokens: bool) -> str:
        """Text of any number of ids."""
        if len(ids) <= INLINE_TOKENS:
            return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return await self._threads.run(
            "decoding the token ids", self._tokenizer.decode, ids, skip_special_tokens=skip_special_tokens
        )

    async def _encode(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        if len(text) <= INLINE_TEXT_CHARS:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return await self._threads.run(
            "tokenizing the prompt", self._tokenizer.encode, text, add_special_tokens=add_special_tokens
        )

    @property
    def _max_chars(self) -> int:
        """Characters of the longest text that may fit the context."""
        per_token = self._tokenizer.max_chars_per_token or MAX_PROMPT_CHARS
        return min(per_token * (self._info.max_model_len - 1), MAX_PROMPT_CHARS)

    def _check_chars(self, num_chars: int, param: str, *, truncated: bool) -> None:
        if truncated:
            _check_countable(num_chars, param)
        elif num_chars > self._max_chars:
            length = f"{num_chars} characters"
            if per_token := self._tokenizer.max_chars_per_token:
                length += f", which are at least {-(-num_chars // per_token)} tokens"
            raise prompt_overflow(self._info.max_model_len, length, param)

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
        if min(ids, default=0) < 0 or max(ids, default=0) >= self._info.vocab_size:
            message = f"{param} must hold token ids between 0 and {self._info.vocab_size - 1}"
            raise bad_request(message, param, "invalid_value")

    def check_room(self, ids: TokenIds, max_tokens: int | None, min_tokens: int) -> None:
        """Refuse output limits beyond the context; a `max_tokens` beyond what the prompt leaves is cut later.

        Args:
            ids: the prompt.
            max_tokens: the request's own value; None = not given.
            min_tokens: that the request insists on.

        Raises:
            ApiError: 400, `max_tokens` is longer than the context, or `min_tokens` than what the prompt leaves of it.
        """
        limit = self._info.max_model_len
        if max_tokens is not None and max_tokens > limit:
            however = f"max_tokens asks for {max_tokens} output tokens; lower max_tokens"
            raise context_overflow(limit, however, "max_tokens")
        room = limit - len(ids)
        if min_tokens > room:
            however = (
                f"{len(ids)} prompt tokens leave room for {room} output tokens, and min_tokens asks for {min_tokens}"
            )
            raise context_overflow(limit, f"{however}; shorten the prompt or lower min_tokens", "min_tokens")


def _last(ids: TokenIds, count: int | None) -> TokenIds:
    return ids if count is None or len(ids) <= count else ids[len(ids) - count :]


def _check_countable(num_chars: int, param: str) -> None:
    if num_chars > MAX_TOKENIZED_CHARS:
        message = f"{param} must be at most {MAX_TOKENIZED_CHARS} characters, got {num_chars}; send it in pieces"
        raise bad_request(message, param, "invalid_value")
