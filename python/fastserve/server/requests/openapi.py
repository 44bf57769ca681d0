"""The OpenAPI description: FastAPI's, completed by the replies and the ranges of numbers.

Routes answer with objects of their own and check numbers in `SamplingParams`. Both are said here, in tables; tests compare
them with what the server does.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from fastserve.server.auth import OPEN_PATHS
from fastserve.server.requests.body_shape import MAX_MESSAGES, MAX_STOP_CHARS
from fastserve.types import (
    MAX_BAD_WORD_CHARS,
    MAX_BAD_WORDS,
    MAX_BIASED_TOKENS,
    MAX_LOGPROBS,
    MAX_REPETITION_PENALTY,
    MAX_SEQUENCES,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKEN_IDS,
    MIN_REPETITION_PENALTY,
)

Json = dict[str, Any]

_BODY_ERRORS = (400, 404, 408, 413, 429, 500, 503)
_JSON, _EVENTS, _TEXT = "application/json", "text/event-stream", "text/plain"
# Path to the media types of its 200, and its errors besides 401.
_REPLIES: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "/v1/completions": ((_JSON, _EVENTS), (*_BODY_ERRORS, 504)),
    "/v1/chat/completions": ((_JSON, _EVENTS), (*_BODY_ERRORS, 504)),
    "/v1/responses": ((_JSON, _EVENTS), (*_BODY_ERRORS, 504)),
    "/tokenize": ((_JSON,), _BODY_ERRORS),
    "/detokenize": ((_JSON,), _BODY_ERRORS),
    "/v1/models": ((_JSON,), ()),
    "/v1/models/{model}": ((_JSON,), (404,)),
    "/v1/requests/{request_id}/explain": ((_JSON,), (404, 503)),
    "/version": ((_JSON,), ()),
    "/metrics": ((_TEXT,), ()),
    "/livez": ((_JSON,), (503,)),
    "/readyz": ((_JSON,), (503,)),
    "/health": ((), (503,)),
    "/ping": ((), (503,)),
    "/load": ((_JSON,), ()),
    "/v1/requests/{request_id}/abort": ((_JSON,), (404, 503)),
}
# Keywords of JSON Schema per field and type of value; a field of another type under this name has none of them.
_TOKEN_ID = {"minimum": 0, "maximum": 2**31 - 1}
_RANGES: dict[str, dict[str, Json]] = {
    "max_tokens": {"integer": {"minimum": 0}},
    "max_completion_tokens": {"integer": {"minimum": 0}},
    "max_output_tokens": {"integer": {"minimum": 0}},
    "min_tokens": {"integer": {"minimum": 0}},
    "temperature": {"number": {"minimum": 0, "maximum": 100}},
    "top_p": {"number": {"exclusiveMinimum": 0, "maximum": 1}},
    "top_k": {"integer": {"minimum": -1, "maximum": 2**31 - 1}},
    "min_p": {"number": {"minimum": 0, "maximum": 1}},
    "presence_penalty": {"number": {"minimum": -2, "maximum": 2}},
    "frequency_penalty": {"number": {"minimum": -2, "maximum": 2}},
    "repetition_penalty": {"number": {"minimum": MIN_REPETITION_PENALTY, "maximum": MAX_REPETITION_PENALTY}},
    "seed": {"integer": {"minimum": -(2**63), "maximum": 2**63 - 1}},
    "n": {"integer": {"minimum": 1, "maximum": MAX_SEQUENCES}},
    "logprobs": {"integer": {"minimum": 0, "maximum": MAX_LOGPROBS}},
    "prompt_logprobs": {"integer": {"minimum": 0, "maximum": MAX_LOGPROBS}},
    "top_logprobs": {"integer": {"minimum": 0, "maximum": MAX_LOGPROBS}},
    "prompt": {"array": {"minItems": 1}},
    "stop": {
        "string": {"minLength": 1, "maxLength": MAX_STOP_CHARS},
        "array": {
            "maxItems": MAX_STOP_STRINGS,
            "items": {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS},
        },
    },
    "stop_token_ids": {"array": {"maxItems": MAX_STOP_TOKEN_IDS, "items": {"type": "integer"} | _TOKEN_ID}},
    "allowed_token_ids": {
        "array": {"minItems": 1, "maxItems": MAX_BIASED_TOKENS, "items": {"type": "integer"} | _TOKEN_ID}
    },
    "logit_bias": {"object": {"maxProperties": MAX_BIASED_TOKENS, "propertyNames": {"pattern": "^[0-9]{1,10}$"}}},
    "bad_words": {
        "array": {
            "maxItems": MAX_BAD_WORDS,
            "items": {"type": "string", "pattern": r"\S", "maxLength": MAX_BAD_WORD_CHARS},
        }
    },
    "tokens": {"array": {"items": {"type": "integer"} | _TOKEN_ID}},
    "messages": {"array": {"minItems": 1, "maxItems": MAX_MESSAGES}},
}
_ERROR: Json = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
# The health routes answer 503 with what they have to say, not with an error.
_STATUS: Json = {"type": "object", "required": ["status"], "properties": {"status": {"type": "string"}}}


def describe(app: FastAPI, *, with_key: bool, strict_fields: bool) -> Json:
    """Build the OpenAPI document of an app's routes.

    Args:
        app: has its routes.
        with_key: a key is asked for.
        strict_fields: unknown fields are refused.
    """
    document = get_openapi(title=app.title, version=app.version, routes=app.routes, servers=app.servers)
    for path, operations in document["paths"].items():
        needs_key = with_key and path not in OPEN_PATHS
        for operation in operations.values():
            operation["responses"] = _responses(path, needs_key=needs_key)
            if needs_key:
                operation["security"] = [{"key": []}]
            for schema in _bodies(operation):
                _add_ranges(schema)
                if not strict_fields:
                    _allow_more_fields(schema)
    document["components"] = {"schemas": {"Error": _ERROR, "Status": _STATUS}}
    if with_key:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return document


def _responses(path: str, *, needs_key: bool) -> Json:
    media_types, errors = _REPLIES[path]
    responses: Json = {"200": _response(200, {name: {"schema": {}} for name in media_types})}
    schema = "Status" if path in OPEN_PATHS else "Error"
    content = {_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}} if media_types else {}
    for status in sorted((*errors, 401) if needs_key else errors):
        responses[str(status)] = _response(status, content)
    return responses


def _response(status: int, content: Json) -> Json:
    response: Json = {"description": HTTPStatus(status).phrase}
    return response | {"content": content} if content else response


def _bodies(operation: Json) -> Iterator[Json]:
    for media in operation.get("requestBody", {}).get("content", {}).values():
        yield media["schema"]


def _add_ranges(schema: Json) -> None:
    """Add the ranges; an optional field may also be null."""
    for name, field in schema["properties"].items():
        forms = field.get("anyOf", [field])
        for form in forms:
            form.update(_RANGES.get(name, {}).get(form.get("type"), {}))
        if name not in schema.get("required", ()) and not any(form.get("type") == "null" for form in forms):
            title = {key: field.pop(key) for key in ("title", "default") if key in field}
            schema["properties"][name] = {"anyOf": [*forms, {"type": "null"}]} | title


def _allow_more_fields(schema: object) -> None:
    """Unknown fields are ignored, in the body and in the objects within."""
    if isinstance(schema, dict):
        if schema.get("additionalProperties") is False:
            del schema["additionalProperties"]
        schema = list(schema.values())
    if isinstance(schema, list):
        for item in schema:
            _allow_more_fields(item)
