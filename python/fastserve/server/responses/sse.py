"""Server-sent events: the constant parts of a chunk are encoded once per stream, a token costs two joins."""

import msgspec

SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
DONE = b"data: [DONE]\n\n"

to_json = msgspec.json.Encoder().encode


def event(payload: bytes) -> bytes:
    """One event with a JSON payload (which has no raw line breaks)."""
    return b"data: " + payload + b"\n\n"


def json_fields(**fields: object) -> bytes:
    """The fields as the inside of an object, each with a comma before it."""
    return b"".join(b',"%s":%s' % (name.encode(), to_json(value)) for name, value in fields.items())


def comment(facts: dict[str, object]) -> bytes:
    """A comment line: clients that do not know it skip it."""
    return b": " + to_json(facts) + b"\n\n"


class ChunkEncoder:
    """Encodes the chunks of one stream.

    Args:
        envelope: the fields before `choices`: id, object, created, model.
        num_choices: choices of the stream.
        text_open: JSON between `"index":i,` and the text, for example `"text":`.
        text_close: JSON after the text, closing what `text_open` opened.
        usage_null: chunks carry `"usage":null` (OpenAI does so when a usage chunk will follow).
    """

    def __init__(
        self, envelope: dict[str, object], num_choices: int, *, text_open: bytes, text_close: bytes, usage_null: bool
    ) -> None:
        self._start = b"data: " + to_json(envelope)[:-1] + b',"choices":['
        self._text_open = text_open
        self._text_close = text_close
        self._usage_null = b',"usage":null' if usage_null else b""
        self._end = b"]" + self._usage_null + b"}\n\n"
        self._heads = [self._start + b'{"index":%d,' % i + text_open for i in range(num_choices)]
        self._plain_tail = text_close + b',"logprobs":null,"finish_reason":null}' + self._end

    def text(self, choice: int, text: str) -> bytes:
        """The chunk of a plain token."""
        return self._heads[choice] + to_json(text) + self._plain_tail

    def full(
        self,
        choice: int,
        payload: bytes,
        *,
        logprobs: dict[str, object] | None = None,
        finish_reason: str | None = None,
        stop_reason: int | str | None = None,
        usage: dict[str, object] | None = None,
        choice_fields: bytes = b"",
        chunk_fields: bytes = b"",
    ) -> bytes:
        """Any other chunk.

        Args:
            choice: its index.
            payload: the JSON from `text_open` to `text_close`.
            logprobs, finish_reason, stop_reason, usage: null or left out when None.
            choice_fields: more fields of the choice, from `json_fields`; chunk_fields: of the chunk.
        """
        chunk = self._start + b'{"index":%d,' % choice + payload
        chunk += b',"logprobs":' + to_json(logprobs) + b',"finish_reason":' + to_json(finish_reason)
        if finish_reason is not None:
            chunk += b',"stop_reason":' + to_json(stop_reason)
        chunk += choice_fields + b"}]"
        chunk += self._usage_null if usage is None else b',"usage":' + to_json(usage)
        return chunk + chunk_fields + b"}\n\n"

    def wrap(self, text: str) -> bytes:
        """A text as `full`'s payload."""
        return self._text_open + to_json(text) + self._text_close

    def usage(self, usage: dict[str, object]) -> bytes:
        """The last chunk: no choices, only the usage."""
        return self._start + b'],"usage":' + to_json(usage) + b"}\n\n"
