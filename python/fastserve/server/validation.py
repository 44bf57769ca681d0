"""From a parsed JSON object to a checked body: wrong types are 400s that name the field, and so may be unknown fields."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from fastserve.errors import InvalidArgumentError
from fastserve.server.body_shape import check_shape
from fastserve.server.errors import ApiError, bad_request, to_api_error
from fastserve.server.ignored_fields import MESSAGE_NOOP_VALUES, drop_noop_fields
from fastserve.server.messages import ChatMessage
from fastserve.server.schema import RequestBody, StreamOptions

MAX_COMPLAINTS = 256
# Names of fields are quoted up to here: they may be as long as the body.
MAX_NAME_CHARS = 64
# Names of unknown fields that are remembered.
MAX_UNKNOWN = 64

BodyT = TypeVar("BodyT", bound=RequestBody)


def parse_request(model: type[BodyT], body: dict[str, object], *, strict_fields: bool = True) -> BodyT:
    """Check a parsed JSON object against a model.

    Args:
        model: of the body.
        body: is not changed.
        strict_fields: refuse unknown fields; else they are left out and their names are in `RequestBody.ignored_fields`.

    Raises:
        ApiError: 400 that names the field.
    """
    check_shape(body)
    unknown: dict[str, None] | None = None if strict_fields else {}
    fields = _known(drop_noop_fields(body, model.noop_values), model.model_fields, "", unknown)
    if isinstance(messages := fields.get("messages"), list):
        fields["messages"] = [
            _known(_used(row, f"messages[{i}]."), ChatMessage.model_fields, "messages[].", unknown)
            if isinstance(row, dict)
            else row
            for i, row in enumerate(messages)
        ]
    if isinstance(options := fields.get("stream_options"), dict):
        used = drop_noop_fields(options, {})
        fields["stream_options"] = _known(used, StreamOptions.model_fields, "stream_options.", unknown)
    try:
        checked = model.model_validate(fields)
    except ValidationError as error:
        raise _describe(error) from None
    except InvalidArgumentError as error:
        raise to_api_error(error) from None
    checked.note_ignored(unknown or ())
    return checked


def _used(message: Mapping[str, object], where: str) -> dict[str, object]:
    return drop_noop_fields(message, MESSAGE_NOOP_VALUES, where)


def _known(
    fields: dict[str, object], known: Mapping[str, object], where: str, unknown: dict[str, None] | None
) -> dict[str, object]:
    """The fields of known names; the other names go to `unknown`, unless it is None: then all are kept, to be refused."""
    if unknown is None or fields.keys() <= known.keys():
        return fields
    for name in fields:
        if name not in known and len(unknown) < MAX_UNKNOWN:
            unknown[where + name[:MAX_NAME_CHARS]] = None
    return {name: value for name, value in fields.items() if name in known}


_FORMS = {
    "prompt": "a string, a list of token ids, or a list of either",
    "stop": "a string or a list of strings",
}


def _describe(error: ValidationError) -> ApiError:
    """The first complaint, in words that name the field and quote no long value."""
    if error.error_count() > MAX_COMPLAINTS:
        return bad_request(f"the body has {error.error_count()} unknown or wrong fields", code="invalid_value")
    complaints = error.errors(include_url=False, include_context=False)
    head = complaints[0]["loc"][0]
    if complaints[0]["type"] == "missing":
        return bad_request(f"{_path(complaints[0]['loc'])} is required", param=str(head), code="missing_field")
    if head in _FORMS and complaints[0]["type"] != "extra_forbidden":
        return bad_request(f"{head} must be {_FORMS[head]}", param=head, code="invalid_value")
    # Of the complaints about the members of a union, the deepest is about the member that was meant.
    chosen = max((row for row in complaints if row["loc"][0] == head), key=lambda row: len(row["loc"]))
    param = _path(chosen["loc"])
    if chosen["type"] == "extra_forbidden":
        return bad_request(f"unknown field {param!r}; remove it", param=param, code="unknown_field")
    message = chosen["msg"][0].lower() + chosen["msg"][1:]
    return bad_request(f"{param}: {message}, got {_short(chosen['input'])}", param=param, code="invalid_value")


def _path(location: tuple[int | str, ...]) -> str:
    """("messages", 0, "role") -> "messages[0].role"; the tags of union members are left out."""
    path = str(location[0])
    for part in location[1:]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not any(mark in part for mark in "[(") and part not in ("str", "int"):
            path += f".{part}"
    return path if len(path) <= MAX_NAME_CHARS else path[: MAX_NAME_CHARS - 3] + "..."


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, dict | list) else type(value).__name__
    return text if len(text) <= 80 else text[:77] + "..."
