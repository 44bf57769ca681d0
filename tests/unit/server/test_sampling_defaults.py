"""The sampling defaults of the model stand for the fields that a request leaves out."""

import pytest

from fastserve.types import SamplingDefaults

VALUES = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.1, "repetition_penalty": 1.5}
COMPLETION = ("/v1/completions", {"prompt": "hi"})
CHAT = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]})


async def sampling(live, route, **fields):
    path, body = route
    reply = await live.post(path, **body, **fields)
    assert reply.status_code == 200, reply.text
    return live.engine.calls[-1].sampling


@pytest.mark.parametrize("route", [COMPLETION, CHAT], ids=["completions", "chat"])
@pytest.mark.parametrize("name", VALUES)
async def test_a_field_that_is_left_out_or_null_has_the_model_s_default(live, route, name):
    live.engine.sampling_defaults = SamplingDefaults(**VALUES)
    for fields in ({}, {name: None}):
        got = await sampling(live, route, **fields)
        assert {field: getattr(got, field) for field in VALUES} == VALUES
    asked = {"top_k": 0}.get(name, 0 if name in ("temperature", "min_p", "top_k") else 1.0)
    got = await sampling(live, route, **{name: asked})
    assert {field: getattr(got, field) for field in VALUES} == VALUES | {name: asked}


async def test_a_default_length_is_for_chats_and_a_limit_for_all(live):
    live.engine.sampling_defaults = SamplingDefaults(max_tokens=30)
    assert (await sampling(live, CHAT)).max_tokens == 30
    assert (await sampling(live, CHAT, max_tokens=40)).max_tokens == 40
    assert (await sampling(live, COMPLETION)).max_tokens == 16
    live.engine.sampling_defaults = SamplingDefaults(max_tokens=7, max_tokens_limit=7)
    for route in (CHAT, COMPLETION):
        assert (await sampling(live, route)).max_tokens == 7
        assert (await sampling(live, route, max_tokens=40)).max_tokens == 7
        assert (await sampling(live, route, max_tokens=3)).max_tokens == 3


async def test_more_tokens_at_least_than_the_limit_are_refused(live):
    live.engine.sampling_defaults = SamplingDefaults(max_tokens=7, max_tokens_limit=7)
    reply = await live.post("/v1/completions", prompt="hi", min_tokens=9)
    assert reply.status_code == 400 and "min_tokens" in reply.json()["error"]["message"]


@pytest.mark.parametrize("route", [COMPLETION, CHAT], ids=["completions", "chat"])
async def test_without_recommendations_the_defaults_are_openai_s(live, route):
    got = await sampling(live, route)
    assert (got.temperature, got.top_k, got.top_p, got.min_p, got.repetition_penalty) == (1.0, 0, 1.0, 0.0, 1.0)
