"""Chats rendered by the model's template, off the event loop, within limits of time, memory and length."""

import msgspec

from fastserve.errors import InvalidArgumentError
from fastserve.server.errors import bad_request
from fastserve.server.side_processes.side_pool import SidePool
from fastserve.tokenizer import ChatTemplates
from fastserve.tokenizer.chat_template import TemplateOptions

RENDER_LIMIT_S = 5.0
NUM_PROCESSES = 2

_Answer = tuple[str, int, str | None]


class ChatRenderer:
    """Renders in side processes: a template that exceeds its limits is killed and only its own request fails."""

    def __init__(self, templates: ChatTemplates) -> None:
        self._pool = SidePool(
            "fastserve.server.side_processes.template_process",
            NUM_PROCESSES,
            what="rendering the chat template",
            setup=msgspec.msgpack.encode((templates.sources, templates.special_tokens)),
        )

    async def render(self, rows: bytes, options: TemplateOptions, *, max_chars: int) -> tuple[str, int]:
        """Return the prompt of a conversation and its number of characters; an empty prompt when they are too many.

        Args:
            rows: see `Conversation.template_rows`.
            options: what else the template gets.
            max_chars: that the prompt may have.

        Raises:
            InvalidArgumentError: there is no template, or it refuses the messages.
            ApiError: 400, the template took too long.
            OverloadedError, RequestFailedError: see `SidePool.ask`.
        """
        request = msgspec.msgpack.encode((rows, msgspec.json.encode(options), max_chars))
        try:
            answer = await self._pool.ask(request, RENDER_LIMIT_S)
        except TimeoutError:
            message = (
                f"the model's chat template must render a conversation within {RENDER_LIMIT_S:g} s and did not; send"
                " fewer or shorter messages, or repair the template"
            )
            raise bad_request(message, "messages", "timeout") from None
        text, num_chars, refusal = msgspec.msgpack.decode(answer, type=_Answer)
        if refusal is not None:
            raise InvalidArgumentError(refusal)
        return text, num_chars

    def pids(self) -> list[int]:
        """Process ids of the side processes."""
        return self._pool.pids()

    def close(self) -> None:
        """Kill the side processes, whatever a template does."""
        self._pool.close()
