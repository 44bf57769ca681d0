"""Text from tokens as they are produced: whole characters only, cut at stop strings, constant work per token."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

from fastserve.tokenizer.stop_matcher import StopMatcher
from fastserve.tokenizer.tokenizer import Tokenizer

# A UTF-8 character has at most 4 bytes, so at most 3 can be left open by a prompt.
_MAX_OPEN_BYTES = 3
# How far to look back in the prompt; tokens without bytes (skipped special ones) count too.
_PROMPT_TAIL_TOKENS = 16
# A window that ends in U+FFFD is taken to be incomplete, unless it stays so for this many tokens.
_MAX_WINDOW_TOKENS = 8
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Delta:
    """The text that a push added.

    Attributes:
        text: new text.
        stop_string: the stop string that ended the output; cut from the text unless it is to be kept.
        num_tokens: tokens of this push that belong to the output; those after a stop string do not.
    """

    text: str
    stop_string: str | None
    num_tokens: int


class IncrementalDetokenizer:
    """The text of one output.

    With an empty prompt, the concatenated deltas equal `Tokenizer.decode` of all tokens; with a prompt, they are what
    the tokens add to the prompt's text: a character that the prompt leaves open is theirs if they complete it, and no part
    of the output if they do not. One exception, where decoding all at once is not a function that can be
    streamed: the byte tokens of sentencepiece models that spell invalid UTF-8 give one U+FFFD per invalid sequence, as
    in byte-level models, and valid characters next to them are kept.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        *,
        stop: tuple[str, ...] = (),
        min_tokens: int = 0,
        keep_stop: bool = False,
        skip_special_tokens: bool = True,
    ) -> None:
        """Start after a prompt.

        Args:
            tokenizer: of the model.
            prompt_token_ids: only the last few are read.
            stop: strings that end the output.
            min_tokens: stop strings complete before this many tokens are let through.
            keep_stop: the string or token that ends the output is part of the text.
            skip_special_tokens: leave special tokens out of the text.
        """
        source = _ByteText if tokenizer.decode_rule else _WindowText
        self._source: _Text = source(tokenizer, prompt_token_ids, skip_special_tokens)
        self._matcher = StopMatcher(stop) if stop else None
        self._min_tokens = min_tokens
        self._keep_stop = keep_stop
        self._num_tokens = 0
        self._ended = False

    def push(self, token_ids: Sequence[int], *, finished: bool = False, stop_token: bool = False) -> Delta:
        """Take new tokens.

        Args:
            token_ids: new tokens, in order.
            finished: no more will come: text held back is given out.
            stop_token: the last of them ended the output, and has no text unless `keep_stop`.
        """
        if self._ended:
            return Delta("", None, 0)
        self._ended = finished
        visible = token_ids[:-1] if stop_token and not self._keep_stop else token_ids
        if self._matcher is None:
            text = self._source.push(visible)
            return Delta(text + self._source.flush() if finished else text, None, len(token_ids))
        parts: list[str] = []
        for count, token_id in enumerate(visible, start=1):
            self._num_tokens += 1
            if stop_string := self._match(self._source.push((token_id,)), parts):
                return Delta("".join(parts), stop_string, count)
        if finished:
            if stop_string := self._match(self._source.flush(), parts):
                return Delta("".join(parts), stop_string, len(token_ids))
            parts.append(self._matcher.flush())
        return Delta("".join(parts), None, len(token_ids))

    def _match(self, text: str, parts: list[str]) -> str | None:
        """Pass text through the matcher into `parts`; return the stop string it completes."""
        if not text or self._matcher is None:
            return None
        text, stop_string = self._matcher.feed(text, honour=self._num_tokens >= self._min_tokens)
        parts.append(text + stop_string if stop_string and self._keep_stop else text)
        self._ended |= stop_string is not None
        return stop_string


class _Text(Protocol):
    """Text of a growing list of tokens."""

    def push(self, token_ids: Sequence[int]) -> str:
        """Return the whole characters that the tokens complete."""

    def flush(self) -> str:
        """Return what is left of an incomplete character, as U+FFFD."""


class _ByteText:
    """Tokens are bytes: look them up, decode UTF-8 incrementally."""

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._table = tokenizer.token_bytes(skip_special_tokens=skip_special_tokens)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        tail = b""
        for token_id in reversed(prompt_token_ids[-_PROMPT_TAIL_TOKENS:]):
            tail = self._table[token_id] + tail
            if len(tail) >= _MAX_OPEN_BYTES:
                break
        self._decoder.decode(tail)
        self._open: bytes = self._decoder.getstate()[0]  # of a character, from where the prompt leaves it open
        rule = tokenizer.decode_rule
        self._strip_spaces = rule.strip_left_spaces if rule and not tail else 0

    def push(self, token_ids: Sequence[int]) -> str:
        table = self._table
        raw = b"".join([table[i] for i in token_ids])
        text = self._decoder.decode(raw)
        if self._open:
            text = self._close_prompt(raw, text)
        return self._strip(text) if self._strip_spaces and text else text

    def flush(self) -> str:
        text = self._decoder.decode(b"", final=True)
        return self._close_prompt(b"", text) if self._open else text

    def _close_prompt(self, raw: bytes, text: str) -> str:
        """Drop the U+FFFD of a character that the prompt began and the first tokens do not complete: it is no output."""
        self._open += raw
        if not text:
            return text
        # True of a U+FFFD as well, where it is the very character that was begun.
        completed = self._open.startswith(text[0].encode())
        self._open = b""
        return text if completed else text[1:]

    def _strip(self, text: str) -> str:
        """Drop the spaces that a sentencepiece text begins with and that are not part of it."""
        stripped = text.lstrip(" ")
        dropped = min(len(text) - len(stripped), self._strip_spaces)
        self._strip_spaces = 0 if stripped or dropped == 0 else self._strip_spaces - dropped
        return text[dropped:]


class _WindowText:
    """Any other decoder: decode a short window with and without the new tokens, the difference is the new text."""

    def __init__(self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._window = self._shown(prompt_token_ids[-_PROMPT_TAIL_TOKENS:])[-_MAX_WINDOW_TOKENS:]
        self._num_done = len(self._window)  # tokens of the window whose text is out
        self._done_text = self._decode(self._window)

    def push(self, token_ids: Sequence[int]) -> str:
        parts = [self._push_one(token_id) for token_id in self._shown(token_ids)]
        return "".join(parts)

    def flush(self) -> str:
        text = self._new_part(self._decode(self._window))
        self._settle()
        return text

    def _push_one(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._decode(self._window)
        open_tokens = len(self._window) - self._num_done
        if text.endswith(_REPLACEMENT) and open_tokens < _MAX_WINDOW_TOKENS:
            return ""
        new = self._new_part(text)
        self._settle()
        return new

    def _new_part(self, text: str) -> str:
        """What a longer text adds; a character that the prompt began takes the place of the prompt's U+FFFD."""
        num_known = len(self._done_text)
        if self._done_text.endswith(_REPLACEMENT):
            pairs = zip(self._done_text, text, strict=False)
            num_known = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return text[num_known:]

    def _settle(self) -> None:
        """All text of the window is out: keep its last tokens as the context of the next."""
        self._window = self._window[-_MAX_WINDOW_TOKENS:]
        self._num_done = len(self._window)
        self._done_text = self._decode(self._window)

    def _shown(self, token_ids: Sequence[int]) -> list[int]:
        """Drop what has no text: a window of skipped tokens only would look like the start of a text."""
        return self._tokenizer.visible_ids(token_ids) if self._skip else list(token_ids)

    def _decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=self._skip)
