"""From a parsed JSON object to a checked body: wrong types are 400s that name the field, and so may be unknown fields."""

from collections.abc import Mapping
from typing import TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from fastserve.errors import InvalidArgumentError
from fastserve.server.errors import ApiError, bad_request, to_api_error
from fastserve.server.requests.body_shape import check_shape
from fastserve.server.requests.ignored_fields import MESSAGE_NOOP_VALUES, drop_noop_fields
from fastserve.server.requests.messages import ChatMessage
from fastserve.server.requests.schema import RequestBody, StreamOptions

MAX_COMPLAINTS = 256
# Names of fields are quoted up to here: they may be as long as the body.
MAX_NAME_CHARS = 64
# Names of unknown fields that are remembered.
MAX_UNKNOWN = 64

BodyT = TypeVar("BodyT", bound=RequestBody)


def parse_request(model: type[BodyT], body: dict[str, object], ignored: list[str] | None = None) -> BodyT:
    """Check a parsed JSON object against a model.

    Args:
        model: of the body.
        body: is not changed.
        ignored: gets the names of unknown fields, each once, which are left out; None = unknown fields are refused.

    Raises:
        ApiError: 400 that names the field.
    """
    check_shape(body)
    fields = _known(drop_noop_fields(model.translate(body), model.noop_values), model.model_fields, "", ignored)
    if isinstance(messages := fields.get("messages"), list):
        fields["messages"] = [
            _known(_used(row, f"messages[{i}]."), ChatMessage.model_fields, "messages[].", ignored)
            if isinstance(row, dict)
            else row
            for i, row in enumerate(messages)
        ]
    if isinstance(options := fields.get("stream_options"), dict):
        used = drop_noop_fields(options, {})
        fields["stream_options"] = _known(used, StreamOptions.model_fields, "stream_options.", ignored)
    _refuse_booleans(fields, model)
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _describe(error) from None
    except InvalidArgumentError as error:
        raise to_api_error(error) from None


def _refuse_booleans(fields: Mapping[str, object], model: type[RequestBody]) -> None:
    """Refuse true and false for numbers: pydantic takes them for 1 and 0 where it takes texts for numbers."""
    for name, value in fields.items():
        if (value is True or value is False) and name in model.model_fields and _is_number(model.model_fields[name]):
            raise bad_request(f"{name} must be a number, got {str(value).lower()}", name, "invalid_value")


def _is_number(field: FieldInfo) -> bool:
    if get_origin(field.annotation) is list:
        return False
    forms = get_args(field.annotation) or (
        field.annotation,
    )  # of Integer | None: Integer, which is Annotated, and None
    return any(get_args(form)[:1] in ((int,), (float,)) or form in (int, float) for form in forms)


def _used(message: Mapping[str, object], where: str) -> dict[str, object]:
    return drop_noop_fields(message, MESSAGE_NOOP_VALUES, where)


def _known(
    fields: dict[str, object], known: Mapping[str, object], where: str, ignored: list[str] | None
) -> dict[str, object]:
    """The fields of known names; the other names go to `ignored`, unless it is None: then all are kept, to be refused."""
    if ignored is None or fields.keys() <= known.keys():
        return fields
    for name in fields:
        if name not in known:
            shown = where + name[:MAX_NAME_CHARS]
            if len(ignored) < MAX_UNKNOWN and shown not in ignored:
                ignored.append(shown)
    return {name: value for name, value in fields.items() if name in known}


_FORMS = {
    "prompt": "a string, a list of token ids, or a list of either",
    "stop": "a string or a list of strings",
    "tool_choice": 'none, auto, required, or {"type": "function", "function": {"name": ...}}',
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
