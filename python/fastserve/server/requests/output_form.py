"""The form that an output must have, as OpenAI's and vLLM's clients ask for it."""

from typing import Annotated, Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from fastserve.errors import InvalidArgumentError
from fastserve.server.errors import ApiError, bad_request
from fastserve.types import StructuredOutputs

# Their names are those of methods of pydantic in the body, so they have others here, which bodies may use as well.
_PART = ConfigDict(extra="ignore", strict=True, populate_by_name=True)

JsonObject = dict[str, Any]
Choices = Annotated[list[str], Field(fail_fast=True)]


class NamedSchema(BaseModel):
    """A JSON schema; name, description and `strict` do not matter: it is always enforced."""

    model_config = _PART

    name: str | None = None
    description: str | None = None
    schema_: JsonObject | bool | None = Field(default=None, alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """OpenAI's way. A structural tag has a `format`, or `structures` and `triggers` as vLLM had them first."""

    model_config = _PART

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: NamedSchema | None = None
    format: JsonObject | None = None
    structures: list[JsonObject] | None = None
    triggers: list[str] | None = None

    def form(self) -> StructuredOutputs | None:
        """The form; None for any text.

        Raises:
            ApiError: 400, a part is missing.
            InvalidArgumentError: it is too long.
        """
        match self.type:
            case "text":
                return None
            case "json_object":
                return StructuredOutputs(json_object=True)
            case "json_schema":
                if self.json_schema is None or self.json_schema.schema_ is None:
                    raise _missing("response_format.json_schema.schema")
                return StructuredOutputs(json=_text(self.json_schema.schema_))
        if self.format is None and (self.structures is None or self.triggers is None):
            raise _missing("response_format.format, or structures and triggers,")
        return StructuredOutputs(structural_tag=_text(self.model_dump(exclude_none=True, exclude={"json_schema"})))


class OutputForm(BaseModel):
    """vLLM's way: one of these. A schema or a structural tag may be an object or its text."""

    model_config = _PART

    json_: JsonObject | bool | str | None = Field(default=None, alias="json")
    regex: str | None = None
    choice: Choices | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: JsonObject | str | None = None
    disable_any_whitespace: Literal[False] = False
    disable_additional_properties: Literal[False] = False
    whitespace_pattern: Literal[None] = None

    def form(self) -> StructuredOutputs:
        """The form.

        Raises:
            InvalidArgumentError: not exactly one is given, or it is too long.
        """
        return StructuredOutputs(
            json=None if self.json_ is None else _text(self.json_),
            json_object=bool(self.json_object),
            regex=self.regex,
            choice=tuple(self.choice or ()),
            grammar=self.grammar,
            structural_tag=None if self.structural_tag is None else _text(self.structural_tag),
        )


def form_of(response_format: ResponseFormat | None, structured_outputs: OutputForm | None) -> StructuredOutputs | None:
    """Return the form that a body asks for; None = any text.

    Raises:
        ApiError: 400 that names the field.
    """
    try:
        form = None if response_format is None else response_format.form()
    except InvalidArgumentError as error:
        raise form_refused(str(error), "response_format") from None
    if structured_outputs is None:
        return form
    if form is not None:
        message = "response_format and structured_outputs are two names of one thing; send one"
        raise bad_request(message, "structured_outputs", "invalid_value")
    try:
        return structured_outputs.form()
    except InvalidArgumentError as error:
        raise form_refused(str(error), "structured_outputs") from None


def form_refused(message: str, field: str) -> ApiError:
    """Return the 400 for a form that cannot be used.

    Args:
        message: about a field of `StructuredOutputs`.
        field: of the body, in which the form came.
    """
    if field != "structured_outputs":
        for name in ("json", "structural_tag", "json_object"):
            message = message.replace(f"structured_outputs.{name}", field)
    return bad_request(message, field, "invalid_value")


def _text(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _missing(what: str) -> ApiError:
    return bad_request(f"{what} is required", "response_format", "missing_field")
