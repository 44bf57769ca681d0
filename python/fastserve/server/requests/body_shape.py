"""How large the parts of a request body may be, checked before any model of it is built.

`check_parts` looks at the bytes before they are parsed, `check_depth` and `check_shape` at the parsed fields. All take a
few nanoseconds per byte or item, many times less than what they spare.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from fastserve.server.errors import ApiError, bad_request
from fastserve.types import MAX_BAD_WORDS, MAX_BIASED_TOKENS, MAX_STOP_STRINGS, MAX_STOP_TOKEN_IDS

MAX_JSON_DEPTH = 32
# Objects, lists and strings. The longest conversation of many clients, 4096 messages of 8 fields each, has half as many.
MAX_JSON_PARTS = 1 << 17
MAX_FIELDS = 256
MAX_PROMPTS = 1024
MAX_MESSAGES = 4096
MAX_STOP_CHARS = 1024
MAX_TOOLS = 512
MAX_TEMPLATE_KWARGS = 64
MAX_OPTION_BYTES = (
    256 * 1024
)  # of tools as JSON, and of variables of the chat template: the server works on them itself

_SCALARS = frozenset((str, int, float, bool, type(None)))


def check_parts(body: bytes) -> None:
    """Refuse JSON of more than `MAX_JSON_PARTS` objects, lists and strings; what is no JSON may pass.

    Raises:
        ApiError: 400.
    """
    if body.count(b"[") + body.count(b"{") + body.count(b'"') <= MAX_JSON_PARTS:
        return
    # Brackets within strings do not count. Without its escapes, a body's quotes are the ends of its strings.
    bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    parts = bare.count(b'"') // 2
    if parts <= MAX_JSON_PARTS:
        outside = b"".join(bare.split(b'"')[::2])
        parts += outside.count(b"[") + outside.count(b"{")
    if parts > MAX_JSON_PARTS:
        message = f"the body must have at most {MAX_JSON_PARTS} objects, lists and strings; send several requests"
        raise bad_request(message, code="too_many_parts")


def check_depth(value: object) -> None:
    """Refuse what nests more than `MAX_JSON_DEPTH` lists and objects.

    Raises:
        ApiError: 400.
    """
    level: list[Any] = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for item in level for child in _containers(item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise too_deep()


def too_deep() -> ApiError:
    """The error of a body that nests too deep."""
    return bad_request(f"the body must nest at most {MAX_JSON_DEPTH} levels deep", code="invalid_json")


def _containers(values: Iterable[object]) -> list[object]:
    if _SCALARS.issuperset(map(type, values)):  # a million token ids are no million turns of a loop
        return []
    return [value for value in values if isinstance(value, dict | list)]


def check_shape(fields: dict[str, object]) -> None:
    """Refuse more fields, or more items in one, than a request can have a use for; says nothing of their types.

    Raises:
        ApiError: 400 that names the field.
    """
    if len(fields) > MAX_FIELDS:
        raise bad_request(f"the body must have at most {MAX_FIELDS} fields, got {len(fields)}", code="invalid_value")
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and prompt and type(prompt[0]) is not int:
        _check_length("prompt", prompt, MAX_PROMPTS, "prompts; send several requests")
    _check_length("messages", fields.get("messages"), MAX_MESSAGES, "messages")
    _check_length("tools", fields.get("tools"), MAX_TOOLS, "tools")
    _check_length("stop_token_ids", fields.get("stop_token_ids"), MAX_STOP_TOKEN_IDS, "ids")
    _check_length("allowed_token_ids", fields.get("allowed_token_ids"), MAX_BIASED_TOKENS, "ids")
    _check_length("logit_bias", fields.get("logit_bias"), MAX_BIASED_TOKENS, "tokens")
    _check_length("bad_words", fields.get("bad_words"), MAX_BAD_WORDS, "words")
    stop = fields.get("stop")
    _check_length("stop", stop, MAX_STOP_STRINGS, "strings")
    for text in stop if isinstance(stop, list) else [stop]:
        if isinstance(text, str) and len(text) > MAX_STOP_CHARS:
            message = f"stop must be strings of at most {MAX_STOP_CHARS} characters, got {len(text)}"
            raise bad_request(message, "stop", "invalid_value")


def _check_length(name: str, value: object, limit: int, what: str) -> None:
    if isinstance(value, list | dict) and len(value) > limit:
        raise bad_request(f"{name} must be at most {limit} {what}, got {len(value)}", name, "invalid_value")


def check_json_size(name: str, value: object) -> None:
    """Refuse a field of more than `MAX_OPTION_BYTES` as JSON.

    Raises:
        ApiError: 400 that names the field.
    """
    size = len(msgspec.json.encode(value))
    if size > MAX_OPTION_BYTES:
        message = f"{name} must have at most {MAX_OPTION_BYTES} bytes of JSON, got {size}; send less"
        raise bad_request(message, name, "invalid_value")
