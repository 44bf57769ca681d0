"""The side process that renders chat templates: programs of the checkpoint, which may never end or ask for any memory.

Request and answer are msgpack: `[messages as JSON, TemplateOptions as JSON, max_chars]`; `[prompt, its length, None]`, an
empty prompt when that is more than `max_chars`, or `["", 0, why the template refuses]`.
"""

import sys

import msgspec

from fastserve.errors import InvalidArgumentError
from fastserve.server.side_processes.side_child import Work, serve_parent
from fastserve.tokenizer.chat_template import OUT_OF_MEMORY, ChatTemplates, TemplateOptions

# A template may raise with a message of any length.
MAX_REASON_CHARS = 1000


def start(setup: bytes) -> Work:
    """Return what renders with the templates of `setup`: `[sources by name, special tokens by role]`."""
    sources, special_tokens = msgspec.msgpack.decode(setup)
    templates = ChatTemplates(sources, special_tokens)

    def render(request: bytes) -> bytes:
        try:
            rows, options, max_chars = msgspec.msgpack.decode(request)
            text = templates.render(msgspec.json.decode(rows), TemplateOptions(**msgspec.json.decode(options)))
            return msgspec.msgpack.encode((text if len(text) <= max_chars else "", len(text), None))
        except InvalidArgumentError as error:
            return _refusal(str(error))
        except UnicodeEncodeError as error:
            return _refusal(f"the model's chat template does not give valid Unicode for these messages: {error}")
        except MemoryError:
            return _refusal(OUT_OF_MEMORY)

    return render


def _refusal(reason: str) -> bytes:
    reason = reason.encode(errors="replace").decode()
    short = reason if len(reason) <= MAX_REASON_CHARS else reason[:MAX_REASON_CHARS] + "..."
    return msgspec.msgpack.encode(("", 0, short))


if __name__ == "__main__":
    sys.exit(serve_parent(start))
