"""The OpenAPI description says what the server does: its replies, their media types, the ranges of numbers."""

import math

import pytest

from fastserve.config import ServerConfig
from fastserve.server.app import build_app
from tests.unit.server.conftest import live_server

DOCUMENT = build_app(None, ServerConfig(), "fake").openapi()
ROUTES = {path: next(iter(operations.values())) for path, operations in DOCUMENT["paths"].items()}
BODIES = {
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/responses": {"input": "a"},
}
# What else a value asks for before it makes sense.
COMPANIONS = {"top_logprobs": {"logprobs": True}, "min_tokens": {"max_tokens": 5}}
NUMBER_KEYWORDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}


def ranges() -> list[tuple[str, str, dict]]:
    """Route, field and schema of every number that has a range."""
    found = []
    for path in BODIES:
        schema = ROUTES[path]["requestBody"]["content"]["application/json"]["schema"]
        for name, field in schema["properties"].items():
            found += [(path, name, form) for form in field.get("anyOf", [field]) if NUMBER_KEYWORDS & set(form)]
    return found


def test_every_number_has_a_range():
    described = {name for _, name, _ in ranges()}
    for path in BODIES:
        schema = ROUTES[path]["requestBody"]["content"]["application/json"]["schema"]
        for name, field in schema["properties"].items():
            if any(form.get("type") in ("integer", "number") for form in field.get("anyOf", [field])):
                assert name in described


def just_outside(schema: dict) -> list[float]:
    step = 1 if schema["type"] == "integer" else 0.001
    values = [schema["minimum"] - step] if "minimum" in schema else []
    values += [schema["maximum"] + step] if "maximum" in schema else []
    return values + [schema[word] for word in ("exclusiveMinimum", "exclusiveMaximum") if word in schema]


def at_the_ends(schema: dict) -> list[float]:
    values = [schema[word] for word in ("minimum", "maximum") if word in schema]
    if "exclusiveMinimum" in schema:
        values.append(schema["exclusiveMinimum"] + 0.001)
    if "exclusiveMaximum" in schema:
        values.append(math.floor(schema["exclusiveMaximum"]) - 1)
    return values


@pytest.mark.parametrize(("path", "name", "schema"), ranges(), ids=lambda value: str(value)[:24])
async def test_ranges_are_those_that_the_server_checks(direct, path, name, schema):
    whole = int if schema["type"] == "integer" else float
    for value in just_outside(schema):
        reply = await direct.post(path, **BODIES[path] | COMPANIONS.get(name, {}) | {name: whole(value)})
        assert reply.status_code == 400, value
    for value in at_the_ends(schema):
        reply = await direct.post(path, **BODIES[path] | COMPANIONS.get(name, {}) | {name: whole(value)})
        assert reply.status_code in (200, 504), (value, reply.text)  # 504: a deadline that is hard to keep


@pytest.mark.parametrize("path", BODIES)
async def test_null_is_taken_for_every_field_that_may_be_left_out(direct, path):
    schema = ROUTES[path]["requestBody"]["content"]["application/json"]["schema"]
    optional = [name for name in schema["properties"] if name not in schema["required"]]
    for name in optional:
        assert {"type": "null"} in schema["properties"][name]["anyOf"]
    assert (await direct.post(path, **BODIES[path] | dict.fromkeys(optional))).status_code == 200


def test_errors_are_described_in_openais_shape():
    for path in BODIES:
        responses = ROUTES[path]["responses"]
        assert set(responses) == {"200", "400", "404", "408", "413", "429", "500", "503", "504"}
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
        for status in set(responses) - {"200"}:
            assert responses[status]["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    assert all("422" not in route["responses"] for route in ROUTES.values())
    assert set(DOCUMENT["components"]["schemas"]) == {"Error", "Status"}


async def test_media_types_are_those_that_are_sent(live):
    for path in ("/health", "/livez", "/metrics", "/version", "/v1/models"):
        reply = await live.http.get(path)
        described = ROUTES[path]["responses"]["200"].get("content", {})
        sent = reply.headers.get("content-type", "").partition(";")[0]
        assert [sent] == (list(described) or [""])


async def test_key_is_described_where_it_is_asked_for(engine):
    async with live_server(engine, ServerConfig(api_key=("secret",))) as live:
        document = (await live.http.get("/openapi.json", headers={"Authorization": "Bearer secret"})).json()
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                refused = (await live.http.request(method, path)).status_code == 401
                assert ("401" in operation["responses"]) == refused == ("security" in operation)


def test_unknown_fields_are_described_as_they_are_treated():
    assert "additionalProperties': False" not in str(DOCUMENT)
    strict = build_app(None, ServerConfig(strict_fields=True), "fake").openapi()
    assert "additionalProperties': False" in str(strict)
