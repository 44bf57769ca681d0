"""Whatever bytes come in, the answer is a 2xx or a 4xx, and a body that was accepted reaches the engine in range."""

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastserve.config import ServerConfig
from fastserve.server.app import build_app
from fastserve.server.errors import ApiError
from fastserve.server.requests.ignored_fields import CHAT_NOOP_VALUES, COMPLETION_NOOP_VALUES
from fastserve.server.requests.json_body import parse_object
from fastserve.server.requests.request_body import INLINE_BODY_BYTES
from fastserve.server.requests.schema import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from fastserve.server.requests.validation import parse_request
from tests.unit.server.fake_engine import Call, FakeEngine

FIELDS = sorted(
    {*CompletionRequest.model_fields, *ChatRequest.model_fields, *CHAT_NOOP_VALUES, *COMPLETION_NOOP_VALUES, "tokens"}
)
NUMBERS = st.one_of(
    st.integers(-3, 20), st.integers(), st.integers(-(2**80), 2**80), st.floats(allow_nan=False, allow_infinity=False)
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8))
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {}, optional={"role": st.sampled_from(["user", "tool", "system"]), "content": st.text(max_size=8)}
    ),
    max_size=3,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), VALUES | NUMBERS | MESSAGES, max_size=6)
VALID = st.sampled_from([{"prompt": "hi"}, {"prompt": [1, 2]}, {"messages": [{"role": "user", "content": "x"}]}, {}])
ROUTES = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}


@settings(max_examples=300, deadline=None)
@given(body=BODIES, valid=VALID, model=st.sampled_from(list(ROUTES.values())))
def test_any_json_object_is_parsed_or_refused(body, valid, model):
    try:
        parse_request(model, body | valid)
    except ApiError as error:
        assert error.status == 400
        json.loads(error.body())


@settings(max_examples=300, deadline=None)
@given(body=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_parsed_or_refused(body):
    try:
        assert isinstance(parse_object(body), dict)
    except ApiError as error:
        assert error.status == 400
        json.loads(error.body())


@pytest.fixture(scope="module")
def post() -> Iterator[Callable[[str, dict], tuple[httpx.Response, list[Call]]]]:
    """Sends a body to one app for all examples: its side processes need not start each time."""
    engine = FakeEngine()
    app = build_app(engine, ServerConfig(), "fake")

    async def send(route: str, body: dict) -> httpx.Response:
        async with httpx.AsyncClient(base_url="http://server", transport=httpx.ASGITransport(app)) as http:
            return await http.post(route, content=msgspec.json.encode(body))

    with asyncio.Runner() as runner:

        def post_one(route: str, body: dict) -> tuple[httpx.Response, list[Call]]:
            engine.calls.clear()
            return runner.run(send(route, body)), engine.calls

        yield post_one
    app.state.server.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES, valid=VALID, route=st.sampled_from(list(ROUTES)), long=st.booleans())
def test_no_body_makes_a_500_and_accepted_ones_are_in_range(post, body, valid, route, long):
    """A long body goes through the side process, and gets the same answer as a short one."""
    reply, calls = post(route, body | valid)
    assert reply.status_code < 500
    for call in calls:
        assert 1 <= call.sampling.n <= 128
        assert call.sampling.max_tokens is None or 1 <= call.sampling.max_tokens <= 512
        for prompt in call.prompts:
            assert len(prompt) + call.sampling.min_tokens <= 512
            assert all(0 <= token_id < 300 for token_id in prompt)
    if long and route.startswith("/v1/"):
        short_status, short_error, short_calls = reply.status_code, reply.json().get("error"), list(calls)
        reply, calls = post(route, {"user": "x" * INLINE_BODY_BYTES} | body | valid)
        assert (reply.status_code, reply.json().get("error")) == (short_status, short_error)
        assert [replace(call, request_id="") for call in calls] == [replace(c, request_id="") for c in short_calls]
