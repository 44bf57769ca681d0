"""Log-probabilities in the two shapes of OpenAI's API."""

import codecs
import math
from collections.abc import Sequence

from fastserve.logprobs import PromptLogprobs, TokenLogprobs
from fastserve.server.protocols import TokenizerProtocol

# JSON has no -inf; OpenAI writes this for a token that cannot be.
LOWEST_LOGPROB = -9999.0


class ChatLogprobs:
    """Rows of `choices[].logprobs.content`."""

    def __init__(self, tokenizer: TokenizerProtocol) -> None:
        self._tokenizer = tokenizer

    def format(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> dict[str, object]:
        """The logprobs object of one delta, or of a whole choice."""
        return {"content": [self._row(i, entry) for i, entry in zip(token_ids, logprobs, strict=True)]}

    def _row(self, token_id: int, entry: TokenLogprobs) -> dict[str, object]:
        top = list(zip(entry.top_ids, entry.top_logprobs, strict=True))
        if top and token_id not in entry.top_ids:  # the chosen token is always shown, and no more than were asked for
            top[-1] = (token_id, entry.logprob)
        return self._token(token_id, entry.logprob) | {"top_logprobs": [self._token(i, value) for i, value in top]}

    def _token(self, token_id: int, logprob: float) -> dict[str, object]:
        raw = self._tokenizer.decode_token_bytes(token_id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": _finite(logprob), "bytes": list(raw)}


class CompletionLogprobs:
    """`choices[].logprobs` of `/v1/completions`; one object per choice, as it keeps the offset in the text."""

    def __init__(self, tokenizer: TokenizerProtocol, offset_chars: int = 0) -> None:
        self._tokenizer = tokenizer
        self._offset_chars = offset_chars
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def format(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None]) -> dict[str, object]:
        """The logprobs object of one delta, or of a whole choice; call in order. None: a prompt's first token."""
        offsets: list[int] = []
        for token_id in token_ids:
            offsets.append(self._offset_chars)
            self._offset_chars += len(self._decoder.decode(self._tokenizer.decode_token_bytes(token_id)))
        return {
            "text_offset": offsets,
            "tokens": [self._name(token_id) for token_id in token_ids],
            "token_logprobs": [None if entry is None else _finite(entry.logprob) for entry in logprobs],
            "top_logprobs": [
                None if entry is None else self._alternatives(i, entry)
                for i, entry in zip(token_ids, logprobs, strict=True)
            ],
        }

    def _alternatives(self, token_id: int, entry: TokenLogprobs) -> dict[str, float]:
        """The likeliest tokens and the chosen one; of several with one text, the chosen one or the likeliest counts."""
        rows = {token_id: entry.logprob} | dict(zip(entry.top_ids, entry.top_logprobs, strict=True))
        best_first = sorted(rows, key=lambda i: rows[i], reverse=True)
        named: dict[str, float] = {}
        for i in best_first:
            named.setdefault(self._name(i), _finite(rows[i]))
        return named | {self._name(token_id): _finite(entry.logprob)}

    def _name(self, token_id: int) -> str:
        """The token's text; the bytes of a token that is no whole character, in OpenAI's spelling."""
        raw = self._tokenizer.decode_token_bytes(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def prompt_entries(parts: Sequence[PromptLogprobs]) -> list[TokenLogprobs | None]:
    """One entry per token of a prompt; None for the first."""
    return [None, *(entry for part in parts for entry in part.unpack())]


class PromptLogprobRows:
    """The field `prompt_logprobs`, which vLLM has in both routes.

    Args:
        tokenizer: for the texts of tokens.
        asked: the request's field; None = the reply has no such field.
    """

    def __init__(self, tokenizer: TokenizerProtocol, asked: int | None) -> None:
        self._tokenizer = tokenizer
        self._asked = asked

    def fields(self, prompt: Sequence[int], parts: Sequence[PromptLogprobs]) -> dict[str, object]:
        """The field, if it was asked for: null for the first token, then the token itself and the likeliest ones by id."""
        if self._asked is None:
            return {}
        entries = zip(prompt, prompt_entries(parts), strict=True)
        return {"prompt_logprobs": [None if entry is None else self._row(token, entry) for token, entry in entries]}

    def _row(self, token_id: int, entry: TokenLogprobs) -> dict[str, object]:
        likeliest = enumerate(zip(entry.top_ids, entry.top_logprobs, strict=True), start=1)
        row = {token_id: (entry.logprob, entry.rank)}
        for rank, (i, logprob) in likeliest:
            row.setdefault(i, (logprob, rank))
        return {
            str(i): {
                "logprob": _finite(logprob),
                "rank": rank,
                "decoded_token": self._tokenizer.decode_token_bytes(i).decode("utf-8", "replace"),
            }
            for i, (logprob, rank) in row.items()
        }


def _finite(value: float) -> float:
    return value if math.isfinite(value) else LOWEST_LOGPROB
