"""What the output of one chat request may be: calls of its tools, reasoning, and the form that both leave to the content."""

import functools
from collections.abc import Callable
from dataclasses import replace

from fastserve.server.errors import bad_request
from fastserve.server.parsers.json_calls import RequiredParser
from fastserve.server.parsers.message_format import MessageFormat
from fastserve.server.parsers.named_call import NamedCallParser
from fastserve.server.parsers.registry import REASONING_PARSERS, TOOL_PARSERS
from fastserve.server.parsers.tool_parser import ToolParser
from fastserve.server.requests.constraints import after_reasoning, forced_calls, strict_calls
from fastserve.server.requests.schema import ChatRequest
from fastserve.server.requests.tools import NamedChoice
from fastserve.server.server_state import ServerState
from fastserve.tokenizer.chat_template import TemplateOptions
from fastserve.types import SamplingParams


class ChatOutput:
    """Settles what one request and the server's flags say of tools and reasoning."""

    def __init__(self, state: ServerState, body: ChatRequest) -> None:
        """Check the choice among the tools.

        Raises:
            ApiError: 400; see `check_choice`, or calls at will (`auto`) are not enabled.
        """
        config = state.config
        self._body = body
        self._choice = body.choice()
        self._tools = [] if self._choice == "none" else body.tools or []
        self._hides_tools = config.exclude_tools_when_tool_choice_none and self._choice == "none"
        self._defaults = state.template_defaults
        self._tokenizer = state.ready_engine().tokenizer
        self._parser = TOOL_PARSERS[config.tool_call_parser] if config.tool_call_parser else None
        self._thinking = REASONING_PARSERS[config.reasoning_parser] if config.reasoning_parser else None
        if self._choice == "auto" and not config.enable_auto_tool_choice:
            message = (
                "tools with tool_choice auto, the default, need a server with --enable-auto-tool-choice and --tool-call-parser;"
                " else send tool_choice none, required, or a function"
            )
            raise bad_request(message, "tool_choice", "unsupported")

    def template_options(self) -> TemplateOptions:
        """What the chat template gets; raises as `Conversation.template_options`."""
        options = self._body.template_options(self._defaults)
        return replace(options, tools=None) if self._hides_tools else options

    def message_format(self, prompt: str) -> MessageFormat:
        """How the messages after this prompt are written."""
        thinking, named = self._thinking, isinstance(self._choice, NamedChoice)
        return MessageFormat(
            reasons=thinking is not None,
            begun=None if thinking is None else thinking.begun(prompt, continued=self._body.continue_final_message),
            include_reasoning=self._body.include_reasoning,
            tool_parser=self._tool_parser(),
            parallel_calls=self._body.parallel_tool_calls,
            is_named=named,
            new_id=(self._parser or ToolParser).new_id,
        )

    def constrained(self, sampling: SamplingParams, form: MessageFormat) -> SamplingParams:
        """The sampling with the form of the output, which begins after the reasoning; no mark of a format is hidden.

        Raises:
            ApiError: 400, the schemas are too long.
        """
        outputs = forced_calls(self._tools, self._choice, parallel=self._body.parallel_tool_calls)
        outputs = outputs or sampling.structured_outputs
        if outputs is None and self._choice == "auto" and self._parser is not None:
            outputs = strict_calls(self._tools, self._parser)
        if outputs is not None and form.reasons:
            outputs = after_reasoning(outputs, form.begun)
        marks = self._parser.marks if self._choice == "auto" and self._parser is not None else ()
        shown = any(self._is_special(mark) for mark in marks)
        return replace(
            sampling,
            structured_outputs=outputs,
            skip_special_tokens=sampling.skip_special_tokens and not shown,
        )

    def _tool_parser(self) -> Callable[[], ToolParser] | None:
        match self._choice:
            case "none":
                return None
            case "auto":
                return self._parser
            case "required":
                return RequiredParser
        return functools.partial(NamedCallParser, self._choice.function.name)

    def _is_special(self, mark: str) -> bool:
        ids = self._tokenizer.encode(mark, add_special_tokens=False)
        return mark not in self._tokenizer.decode(ids, skip_special_tokens=True)
