"""What is not right is refused by a 4xx in OpenAI's shape that names the field, and never reaches the engine."""

import asyncio

import httpx
import openai
import pytest

from fastserve.config import ServerConfig
from fastserve.server.errors import ApiError
from fastserve.server.requests import json_body
from fastserve.server.requests.body_shape import MAX_JSON_DEPTH, MAX_STOP_CHARS
from fastserve.server.requests.json_body import parse_object
from tests.unit.server.conftest import live_server

BAD_COMPLETIONS = [
    ({"temperature": -1}, "temperature"),
    ({"temperature": "warm"}, "temperature"),
    ({"temperature": "nan"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"priority": False}, "priority"),
    ({"deadline_s": True}, "deadline_s"),
    ({"stop_token_ids": True}, "stop_token_ids"),
    ({"max_tokens": 5.5}, "max_tokens"),
    ({"max_tokens": "5.5"}, "max_tokens"),
    ({"max_tokens": "9" * 5000}, "max_tokens"),
    ({"deadline_s": "inf"}, "deadline_s"),
    ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ({"truncate_prompt_tokens": 0}, "prompt"),
    ({"return_token_ids": 2}, "return_token_ids"),
    ({"skip_special_tokens": "nope"}, "skip_special_tokens"),
    ({"prompt": ["a"] * 64, "n": 17}, "n"),
    ({"top_p": 0}, "top_p"),
    ({"n": 129}, "n"),
    ({"n": True}, "n"),
    ({"n": 10**30}, "n"),
    ({"max_tokens": -(2**70)}, "max_tokens"),
    ({"max_tokens": 513}, "max_tokens"),
    ({"prompt": [1] * 500, "max_tokens": 100, "min_tokens": 20}, "min_tokens"),
    ({"model": 3}, "model"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"max_tokens": 3, "min_tokens": 4}, "min_tokens"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.5}, "min_p"),
    ({"presence_penalty": 2.5}, "presence_penalty"),
    ({"frequency_penalty": -2.5}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
    ({"ignore_eos": "always"}, "ignore_eos"),
    ({"stream": 2}, "stream"),
    ({"echo": 2}, "echo"),
    ({"add_special_tokens": []}, "add_special_tokens"),
    ({"n": 10**9}, "n"),
    ({"n": -1}, "n"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"stop": ["a"] * 17}, "stop"),
    ({"stop": [1]}, "stop"),
    ({"stop": ""}, "stop"),
    ({"stop": "x" * (MAX_STOP_CHARS + 1)}, "stop"),
    ({"stop": ["x", "y" * (MAX_STOP_CHARS + 1)]}, "stop"),
    ({"seed": 2**63}, "seed"),
    ({"priority": 2**31}, "priority"),
    ({"deadline_s": 0}, "deadline_s"),
    ({"max_pause_s": 0}, "max_pause_s"),
    ({"ttft_slo_s": 0}, "ttft_slo_s"),
    ({"ttft_slo_s": "nan"}, "ttft_slo_s"),
    ({"tpot_slo_s": -0.05}, "tpot_slo_s"),
    ({"tpot_slo_s": "fast"}, "tpot_slo_s"),
    ({"request_id": "a\nb"}, "request_id"),
    ({"cache_salt": "x" * 257}, "cache_salt"),
    ({"length_class": "x" * 257}, "length_class"),
    ({"prompt": ""}, None),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [300]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [10**30]}, "prompt"),
    ({"prompt": [1] * 512}, "prompt"),
    ({"prompt": ["a"] * 1025}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt"),
    ({"echo": True, "logprobs": 1, "stream": True}, "echo"),
    ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
    ({"prompt_logprobs": -1}, "prompt_logprobs"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"suffix": "x"}, "suffix"),
    ({"logit_bias": {"5": "much"}}, "logit_bias.5"),
    ({"logit_bias": {"five": 1}}, "logit_bias"),
    ({"logit_bias": {"-5": 1}}, "logit_bias"),
    ({"logit_bias": {"300": 1}}, "logit_bias"),
    ({"logit_bias": {str(i): 0 for i in range(1025)}}, "logit_bias"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"allowed_token_ids": [300]}, "allowed_token_ids"),
    ({"allowed_token_ids": [1] * 1025}, "allowed_token_ids"),
    ({"bad_words": ["x"] * 129}, "bad_words"),
    ({"bad_words": [" "]}, "bad_words"),
    ({"bad_words": "x"}, "bad_words"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": "perhaps"}}, "stream_options.include_usage"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_COMPLETIONS, ids=lambda v: repr(v)[:40])
async def test_bad_completion_field_is_a_400_that_names_it(direct, fields, param):
    reply = await direct.complete(**fields)
    if fields == {"prompt": ""}:  # the tokenizer adds a first token: there is something to continue
        assert reply.status_code == 200
        return
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert set(error) == {"message", "type", "param", "code"}
    assert direct.engine.calls == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}, None),
        ({"messages": [{"role": "assistant", "content": "x", "tool_calls": [1]}]}, "messages[0].tool_calls[0]"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"add_generation_prompt": 2}, "add_generation_prompt"),
        ({"add_special_tokens": "maybe"}, "add_special_tokens"),
        ({"max_completion_tokens": -1}, "max_tokens"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"messages": [{"role": "user", "content": "x", "name": 3}]}, "messages[0].name"),
    ],
)
async def test_bad_chat_field_is_a_400_that_names_it(direct, fields, param):
    reply = await direct.chat(**fields)
    assert reply.status_code == 400
    if param is not None:
        assert reply.json()["error"]["param"] == param
    assert direct.engine.calls == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": "x" * 600}]}, "messages"),
        ({"max_tokens": 513}, "max_tokens"),
        ({"max_tokens": 500, "min_tokens": 500}, "min_tokens"),
    ],
)
async def test_what_does_not_fit_the_context_is_refused_in_the_words_that_clients_search_for(direct, fields, param):
    error = (await direct.chat(**fields)).json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", param)
    assert error["message"].startswith("This model's maximum context length is 512 tokens. However, ")
    assert ("prompt is too long" in error["message"]) == (param == "messages")


async def test_refusal_of_the_chat_template_is_a_400(direct):
    reply = await direct.chat("refuse")
    assert reply.status_code == 400 and "alternate" in reply.json()["error"]["message"]


BAD_BODIES = [
    b"",
    b"nonsense",
    b"[1]",
    b'"text"',
    b'{"prompt":"a",}',
    b'{"prompt":"\xff"}',
    b'{"prompt":"\\ud800"}',
    b'{"prompt":"a","temperature":NaN}',
    b'{"prompt":"a","temperature":Infinity}',
    b'{"prompt":"a","temperature":1e999}',
    b'{"prompt":"a","seed":' + b"9" * 5000 + b"}",
    b'{"prompt":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    b'{"prompt":' + b"[" * 40 + b"]" * 40 + b"}",
    b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda b: repr(b[:30]))
async def test_bad_json_is_a_400(direct, body):
    reply = await direct.http.post("/v1/completions", content=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["code"] in ("invalid_json", "invalid_utf8")


def test_depth_limit_is_exact():
    deep = b"[" * (MAX_JSON_DEPTH - 1) + b"]" * (MAX_JSON_DEPTH - 1)
    padding = b",".join([b"[]"] * 40)
    assert "a" in parse_object(b'{"a":' + deep + b',"b":[' + padding + b"]}")
    with pytest.raises(ApiError, match="levels deep"):
        parse_object(b'{"a":[' + deep + b'],"b":[' + padding + b"]}")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
async def test_field_of_another_route_is_unknown_whatever_it_is_there(strict, path):
    field = "prompt" if "chat" in path else "stop"
    reply = await strict.post(path, messages=[{"role": "user", "content": "hi"}], **{field: "x"})
    assert reply.status_code == 400 and reply.json()["error"]["code"] == "unknown_field"


async def test_a_million_unknown_fields_are_one_short_error(direct):
    body = "{" + ",".join(f'"a{i}":1' for i in range(5000)) + "}"
    reply = await direct.http.post("/v1/completions", content=body)
    assert reply.status_code == 400 and len(reply.content) < 300


@pytest.mark.parametrize(
    "body",
    [
        {"x" * 30_000: 1},
        {"messages": [{"role": "user", "content": "x", "y" * 30_000: 1}]},
        {"stream": True, "stream_options": {"x" * 30_000: 1}},
        {"x" * 200: [1] * 100, "prompt": "a"},
        {"model": "x" * 30_000, "prompt": "a"},
        {"request_id": "x" * 30_000, "prompt": "a"},
        {"prompt": "a", "seed": 10**4000},
        {"prompt": "a", "temperature": 10**300},
        {"prompt": "a", "stop": ["x" * 30_000]},
        {"prompt": {"x" * 30_000: 1}},
        {"messages": [{"role": "x" * 30_000, "content": "x"}]},
    ],
    ids=lambda body: repr(body)[:30],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
async def test_error_reply_is_short_whatever_was_sent(strict, path, body):
    reply = await strict.post(path, **body)
    assert 400 <= reply.status_code < 500
    assert len(reply.content) < 2000
    assert len(reply.json()["error"]["param"] or "") <= 100


async def test_stop_of_the_longest_kind_is_taken(direct):
    reply = await direct.complete(stop=["x" * MAX_STOP_CHARS, "ü" * MAX_STOP_CHARS])
    assert reply.status_code == 200


async def test_limit_of_a_stop_string_is_in_the_error(direct):
    reply = await direct.complete(stop="x" * 2000)
    message = reply.json()["error"]["message"]
    assert str(MAX_STOP_CHARS) in message and "2000" in message


async def test_declared_large_body_is_a_413_and_the_connection_survives_the_reply(live):
    reply = await live.http.post("/v1/completions", content=b"x" * 200_000)
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "body_too_large"


async def send_chunks(live, count: int) -> tuple[int, int | None]:
    """Post `count` chunks of 16 KiB without a Content-Length; returns bytes sent and the status, None = cut off."""
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(count):
            sent += 16_384
            yield b"x" * 16_384

    try:
        return sent, (await live.http.post("/v1/completions", content=chunks())).status_code
    except httpx.NetworkError:
        return sent, None


async def test_chunked_large_body_is_a_413(live):
    assert (await send_chunks(live, 10))[1] == 413


async def test_body_without_end_is_cut_off(live, monkeypatch):
    monkeypatch.setattr(json_body, "DISCARD_FACTOR", 1)
    sent, status = await send_chunks(live, 4000)
    assert status in (413, None)
    assert sent < 32 << 20, "the kernel's buffers, not the 64 MB of the client"


async def test_body_that_does_not_arrive_is_a_408(live, monkeypatch):
    monkeypatch.setattr(json_body, "BODY_TIMEOUT_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert (await reader.read(65536)).startswith(b"HTTP/1.1 408")
    writer.close()
    await writer.wait_closed()


async def test_unknown_routes_models_and_methods_are_errors_in_openais_shape(live):
    for reply, status in (
        (await live.http.get("/nowhere"), 404),
        (await live.http.get("/v1/completions"), 405),
        (await live.complete(model="other"), 404),
        (await live.http.get("/v1/models/other"), 404),
        (await live.http.get("/docs"), 404),
    ):
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    with pytest.raises(openai.NotFoundError, match="other"):
        await live.openai.completions.create(model="other", prompt="x")


async def test_request_id_in_use_is_refused(live):
    live.engine.script.gate = asyncio.Event()
    first = asyncio.create_task(live.complete(request_id="same"))
    while not live.engine.running:
        await asyncio.sleep(0)
    reply = await live.complete(request_id="same")
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "request_id"
    live.engine.script.gate.set()
    assert (await first).status_code == 200


async def test_every_route_but_health_is_denied_without_the_key(engine):
    async with live_server(engine, ServerConfig(api_key=("secret", "other"))) as live:
        for path in ("/livez", "/readyz", "/health"):
            assert (await live.http.get(path)).status_code == 200
        routes = [
            "/v1/models",
            "/metrics",
            "/version",
            "/openapi.json",
            "/nowhere",
            "/health/",
            "//health",
            "/livez%2f",
        ]
        for path in routes:
            reply = await live.http.get(path)
            assert reply.status_code == 401, path
            assert reply.json()["error"]["type"] == "authentication_error"
        assert (await live.complete()).status_code == 401
        for value in ("Bearer wrong", "Basic secret", "secret", "Bearer secre", "Bearer secretx"):
            assert (await live.http.get("/version", headers={"Authorization": value})).status_code == 401
        twice = [("Authorization", "Bearer secret"), ("Authorization", "Bearer wrong")]
        assert (await live.http.get("/version", headers=twice)).status_code == 401
        for value in ("Bearer secret", "bearer secret"):
            assert (await live.http.get("/version", headers={"Authorization": value})).status_code == 200
        assert (await live.openai.completions.create(model="fake", prompt="x")).choices
