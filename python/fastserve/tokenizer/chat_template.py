"""Chat templates: a model's own Jinja source turns a list of messages into the prompt it was trained on.

The source comes from the checkpoint or the server's operator, never from a request, and runs in Jinja's immutable sandbox.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from fastserve.errors import InvalidArgumentError

Message = Mapping[str, object]

OUT_OF_MEMORY = (
    "the model's chat template needs more memory for these messages than it may have; send fewer or shorter messages, or"
    " repair the template"
)
# Of the templates that a model may have.
TEMPLATE_NAMES = ("default", "tool_use", "rag")
# Variables of a template that have fields of their own.
RESERVED_VARIABLES = frozenset(
    ("messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "tokenize")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateOptions:
    """What a template gets besides the messages.

    Attributes:
        add_generation_prompt: end the prompt where the assistant's answer begins.
        continue_final_message: end the prompt within the last message, which the model continues.
        tools: descriptions of tools, for templates that know them.
        variables: of the template, such as `enable_thinking`; none of `RESERVED_VARIABLES`.

    Raises:
        InvalidArgumentError: a variable has a name that is taken, or the prompt is to end in two places.
    """

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: Sequence[object] | None = None
    variables: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.variables:
            if name in RESERVED_VARIABLES or not name.isidentifier():
                raise InvalidArgumentError(
                    f"chat_template_kwargs must not set {name!r:.100}; use the field for it, or another name"
                )
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidArgumentError(
                "continue_final_message and add_generation_prompt exclude each other; set one of them"
            )


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's part for training; here it is its body."""

    tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def without_none(message: Message) -> dict[str, object]:
    """Leave out what is None: most templates would write the word "None", or fail.

    Clients give messages back with `content`, `tool_calls`, `name` and the like set to None; the same goes for the
    parts of a content and for tool calls. A None among the arguments of a call is a value, and stays.
    """
    row = {name: value for name, value in message.items() if value is not None}
    for name in ("content", "tool_calls"):
        if isinstance(rows := row.get(name), list | tuple):
            row[name] = [without_none(item) if isinstance(item, Mapping) else item for item in rows]
    for name in ("function", "function_call"):
        if isinstance(call := row.get(name), Mapping):
            row[name] = {key: value for key, value in call.items() if value is not None}
    return row


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which is wrong in a prompt."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def read_chat_template(given: str) -> str:
    """Return the source of a template that is given as a file, as its text, or by the name of one of the model's.

    Raises:
        InvalidArgumentError: there is no such file, or it cannot be read.
    """
    if any(mark in given for mark in "{}\n") or given in TEMPLATE_NAMES:
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidArgumentError(
            f"chat_template must be a Jinja file, its text, or a name ({', '.join(TEMPLATE_NAMES)}): {error}"
        ) from None


class ChatTemplates:
    """The templates of one model, compiled on first use: a broken template hurts only chat requests.

    Rendering is safe from any thread. It runs a program of the checkpoint, of which neither time nor memory is bounded.

    Attributes:
        sources: Jinja sources by name: "default", and "tool_use" where the model has one.
        special_tokens: variables of the templates such as `bos_token`.
    """

    def __init__(self, sources: Mapping[str, str], special_tokens: Mapping[str, str]) -> None:
        self.sources = dict(sources)
        self.special_tokens = dict(special_tokens)
        self._compiled: dict[str, jinja2.Template] = {}

    def with_template(self, given: str | None) -> "ChatTemplates":
        """Return the same with one template in the place of all: this text, or that of this name; None = the same."""
        if given is None:
            return self
        source = self.sources.get(given) if given in TEMPLATE_NAMES else given
        return ChatTemplates({} if source is None else {"default": source}, self.special_tokens)

    def render(self, messages: Sequence[Message], options: TemplateOptions) -> str:
        """Return the prompt text.

        Raises:
            InvalidArgumentError: there is no template, it does not compile, or it does not accept these messages.
        """
        name = "tool_use" if options.tools and "tool_use" in self.sources else "default"
        if name not in self.sources:
            raise InvalidArgumentError(
                "the model has no chat template (chat_template.jinja or tokenizer_config.json);"
                " use completions with a prompt instead"
            )
        rows = [without_none(message) for message in messages]
        end = _marked_end(rows) if options.continue_final_message else ""
        variables = {**self.special_tokens, **options.variables}
        variables["tools"] = None if options.tools is None else list(options.tools)
        variables["add_generation_prompt"] = options.add_generation_prompt
        try:
            template = self._template(name)
            try:
                text = template.render(variables | {"messages": rows})
            except TypeError:  # most templates expect the arguments of a call as an object, DeepSeek's as a text
                if (texts := _with_text_arguments(rows)) == rows:
                    raise
                text = template.render(variables | {"messages": texts})
        except MemoryError as error:
            raise InvalidArgumentError(OUT_OF_MEMORY) from error
        except Exception as error:  # the template is a program of the checkpoint: it may raise anything
            raise InvalidArgumentError(
                f"the model's chat template does not accept these messages: {error}; check roles and their order"
            ) from error
        if end and end not in text:
            raise InvalidArgumentError(
                "continue_final_message needs a chat template that writes the content of the last message as it is"
            )
        return text[: text.rindex(end)] if end else text

    def _template(self, name: str) -> jinja2.Template:
        if name not in self._compiled:
            self._compiled[name] = _environment().from_string(self.sources[name])
        return self._compiled[name]


def _marked_end(rows: list[dict[str, object]]) -> str:
    """Put a mark at the end of the last message's content, and return it."""
    content = rows[-1].get("content") if rows else None
    mark = uuid.uuid4().hex
    if isinstance(content, str):
        rows[-1]["content"] = content + mark
    elif isinstance(content, list) and content and isinstance(content[-1].get("text"), str):
        rows[-1]["content"] = [*content[:-1], content[-1] | {"text": content[-1]["text"] + mark}]
    else:
        raise InvalidArgumentError("continue_final_message needs a last message with content")
    return mark


def _with_text_arguments(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The messages with the arguments of calls as JSON texts."""
    return [
        row | {"tool_calls": [_with_text(call) for call in calls]}
        if isinstance(calls := row.get("tool_calls"), list)
        else row
        for row in rows
    ]


def _with_text(call: object) -> object:
    if not isinstance(call, dict) or not isinstance(function := call.get("function"), dict):
        return call
    if not isinstance(function.get("arguments"), dict):
        return call
    return {**call, "function": function | {"arguments": json.dumps(function["arguments"], ensure_ascii=False)}}
