"""Chat templates: a model's own Jinja source turns a list of messages into the prompt it was trained on.

The source comes from the checkpoint, never from a request, and runs in Jinja's immutable sandbox.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

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

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool, tools: Sequence[object] | None = None
    ) -> str:
        """Return the prompt text.

        Raises:
            InvalidArgumentError: there is no template, it does not compile, or it does not accept these messages.
        """
        name = "tool_use" if tools and "tool_use" in self.sources else "default"
        if name not in self.sources:
            raise InvalidArgumentError(
                "the model has no chat template (chat_template.jinja or tokenizer_config.json);"
                " use completions with a prompt instead"
            )
        try:
            return self._template(name).render(
                messages=[without_none(message) for message in messages],
                tools=None if tools is None else list(tools),
                add_generation_prompt=add_generation_prompt,
                **self.special_tokens,
            )
        except MemoryError as error:
            raise InvalidArgumentError(OUT_OF_MEMORY) from error
        except Exception as error:  # the template is a program of the checkpoint: it may raise anything
            raise InvalidArgumentError(
                f"the model's chat template does not accept these messages: {error}; check roles and their order"
            ) from error

    def _template(self, name: str) -> jinja2.Template:
        if name not in self._compiled:
            self._compiled[name] = _environment().from_string(self.sources[name])
        return self._compiled[name]
