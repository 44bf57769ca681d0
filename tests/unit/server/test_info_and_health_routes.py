"""Models, tokenizer routes, explain, metrics and the health routes."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastserve import __version__
from fastserve.config import ServerConfig
from fastserve.server import info_routes
from fastserve.types import EngineStats
from tests.unit.server.conftest import live_server
from tests.unit.server.fake_engine import BOS, Script


async def test_models_lists_the_served_name(live):
    models = [model async for model in await live.openai.models.list()]
    assert [model.id for model in models] == ["fake"]
    card = (await live.http.get("/v1/models/fake")).json()
    assert card["max_model_len"] == 512 and card["root"] == "fake/model"


async def test_version_is_ours(direct):
    assert (await direct.http.get("/version")).json() == {"version": __version__}


@pytest.mark.parametrize(
    "path", ["/version", "/v1/models", "/v1/models/fake", "/metrics", "/health", "/readyz", "/nowhere"]
)
async def test_head_is_answered_as_get_without_a_body(live, path):
    got, head = await live.http.get(path), await live.http.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"] if got.content else True
    assert int(head.headers["content-length"]) > 0 or not got.content
    assert (await live.http.get("/version")).status_code == 200, "the connection goes on"


async def test_head_asks_for_a_key_where_get_does(engine):
    async with live_server(engine, ServerConfig(api_key=("secret",))) as live:
        assert (await live.http.head("/version")).status_code == 401
        assert (await live.http.head("/version", headers={"Authorization": "Bearer secret"})).status_code == 200
        assert (await live.http.head("/livez")).status_code == 200


async def test_head_of_a_route_that_generates_is_not_allowed(live):
    assert (await live.http.head("/v1/completions")).status_code == 405


async def test_tokenize_and_detokenize_are_inverse(direct):
    body = (await direct.post("/tokenize", prompt="hé", return_token_strs=True)).json()
    assert body["tokens"] == [BOS, *"hé".encode()]
    assert (body["count"], body["max_model_len"]) == (4, 512)
    assert body["token_strs"][1] == "h"
    assert (await direct.post("/tokenize", prompt="h", add_special_tokens=False)).json()["tokens"] == [104]
    assert (await direct.post("/detokenize", tokens=body["tokens"][1:])).json() == {"prompt": "hé"}


async def test_long_text_is_tokenized_too(direct):
    assert (await direct.post("/tokenize", prompt="x" * 5000)).json()["count"] == 5001


async def test_conversation_that_does_not_fit_the_context_is_counted_too(direct):
    messages = [{"role": "user", "content": "x" * 5000}]
    reply = await direct.post("/tokenize", messages=messages)
    assert reply.json()["count"] == len("user: \nassistant: ") + 5000
    assert (await direct.post("/v1/chat/completions", messages=messages)).status_code == 400


async def test_tokenize_renders_messages(direct):
    body = (await direct.post("/tokenize", messages=[{"role": "user", "content": "hi"}])).json()
    assert bytes(body["tokens"]) == b"user: hi\nassistant: "
    shape = {
        "messages": [{"role": "user", "content": "hi"}],
        "add_generation_prompt": False,
        "add_special_tokens": True,
    }
    assert (await direct.post("/tokenize", **shape)).json()["tokens"] == [BOS, *b"user: hi\n"]


@pytest.mark.parametrize(("path", "body"), [("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [97]})])
async def test_tokenizer_routes_know_the_one_model_only(direct, path, body):
    assert (await direct.post(path, model="fake", **body)).status_code == 200
    assert (await direct.post(path, model="other", **body)).status_code == 404


@pytest.mark.parametrize("body", [{}, {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}])
async def test_tokenize_needs_a_prompt_or_messages(direct, body):
    assert (await direct.post("/tokenize", **body)).status_code == 400


async def test_detokenize_refuses_ids_outside_the_vocabulary(direct):
    assert (await direct.post("/detokenize", tokens=[300])).status_code == 400
    assert (await direct.post("/detokenize", tokens=[])).json() == {"prompt": ""}


async def test_explain_passes_the_engines_answer_on(direct):
    direct.engine.explanations["req-1"] = {"state": "parked", "level": 2}
    assert (await direct.http.get("/v1/requests/req-1/explain")).json() == {"state": "parked", "level": 2}
    reply = await direct.http.get("/v1/requests/other/explain")
    assert reply.status_code == 404 and reply.json()["error"]["code"] == "request_not_found"


async def test_silent_engine_costs_metrics_only_its_part_and_explain_a_503(direct, monkeypatch):
    monkeypatch.setattr(info_routes, "ENGINE_ANSWER_TIMEOUT_S", 0.02)
    direct.engine.silent = True
    reply = await direct.http.get("/metrics")
    assert reply.status_code == 200
    assert "prompt_tokens" in reply.text and "num_requests_running" not in reply.text
    reply = await direct.http.get("/v1/requests/a/explain")
    assert reply.status_code == 503 and reply.headers["retry-after"]


async def test_openapi_describes_the_bodies(direct):
    paths = (await direct.http.get("/openapi.json")).json()["paths"]
    assert "$ref" not in str(paths["/v1/chat/completions"]["post"]["requestBody"])
    body = paths["/v1/completions"]["post"]["requestBody"]
    assert "max_tokens" in body["content"]["application/json"]["schema"]["properties"]


async def test_health_follows_the_engine(direct):
    for path in ("/livez", "/readyz", "/health"):
        assert (await direct.http.get(path)).status_code == 200
    direct.engine.is_alive = False
    for path in ("/livez", "/readyz", "/health"):
        assert (await direct.http.get(path)).status_code == 503


async def test_loop_that_does_not_turn_fails_livez_at_the_configured_age(engine):
    async with live_server(engine, ServerConfig(heartbeat_limit_s=2.0)) as live:
        engine.heartbeat_s = 1.9
        assert (await live.http.get("/livez")).status_code == 200
        engine.heartbeat_s = 2.1
        reply = await live.http.get("/livez")
        assert reply.status_code == 503 and "2.1 s" in reply.json()["status"]


async def test_draining_server_is_alive_and_not_ready(direct):
    direct.serving.draining = True
    assert (await direct.http.get("/livez")).status_code == 200
    assert (await direct.http.get("/readyz")).json() == {"status": "draining"}


async def test_loading_server_answers_503_with_retry_after():
    async with live_server(None, ServerConfig()) as live:
        assert (await live.http.get("/livez")).status_code == 200
        assert (await live.http.get("/health")).status_code == 503
        assert (await live.http.get("/readyz")).json() == {"status": "loading"}
        for path in ("/v1/completions", "/v1/chat/completions", "/tokenize"):
            reply = await live.post(path)
            assert reply.status_code == 503 and "retry-after" in reply.headers
        assert (await live.http.get("/v1/models")).status_code == 200
        assert (await live.http.get("/metrics")).status_code == 200


async def test_server_whose_engine_is_being_replaced_is_alive_and_answers_503_with_retry_after(direct):
    direct.serving.detach()
    assert (await direct.http.get("/livez")).status_code == 200
    assert (await direct.http.get("/health")).status_code == 503
    assert (await direct.http.get("/readyz")).json() == {"status": "restarting"}
    reply = await direct.complete()
    assert reply.status_code == 503 and "retry-after" in reply.headers
    assert reply.json()["error"]["code"] == "restarting"
    assert (await direct.http.get("/metrics")).status_code == 200
    direct.serving.attach(direct.engine)
    assert (await direct.http.get("/readyz")).status_code == 200
    assert (await direct.complete()).status_code == 200


async def metric_values(live) -> dict[tuple, float]:
    """Samples by name and the labels other than model and engine."""
    text = (await live.http.get("/metrics")).text
    rows = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            rest = tuple(sorted(v for k, v in sample.labels.items() if k not in ("model_name", "engine")))
            rows[sample.name, *rest] = sample.value
    return rows


async def test_metrics_count_what_requests_did(direct):
    direct.engine.engine_stats = EngineStats(num_running=3, preemptions=5, level_requests=(1, 2), iterations=4)
    await direct.complete(prompt=["a", "b"], n=2)
    await direct.complete(stream=True)
    direct.engine.overloaded = True
    await direct.complete()
    rows = await metric_values(direct)
    assert rows["fastserve:num_requests_running",] == 3
    assert rows["fastserve:num_preemptions_total",] == 5
    assert rows["fastserve:level_requests", "1"] == 2
    assert rows["fastserve:request_success_total", "stop"] == 5
    assert rows["fastserve:generation_tokens_total",] == 15
    assert rows["fastserve:prompt_tokens_total",] == 2 + 2 + 3
    assert rows["fastserve:time_to_first_token_seconds_count",] == 5
    assert rows["fastserve:inter_token_latency_seconds_count",] == 10
    assert rows["fastserve:e2e_request_latency_seconds_count",] == 5
    assert rows["fastserve:request_num_preemptions_sum",] == 10
    assert rows["fastserve:request_parked_time_seconds_sum", "host"] == 1.25
    assert rows["fastserve:admission_rejections_total", "overloaded"] == 1


async def test_refusals_while_draining_are_counted(direct):
    direct.serving.draining = True
    await direct.complete()
    await direct.chat()
    assert (await metric_values(direct))["fastserve:admission_rejections_total", "draining"] == 2


async def test_abandoned_requests_are_counted_as_aborted(live):
    live.engine.script = Script(pieces=("a",) * 9, delay_s=10)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(live.complete(), 0.1)
    while live.engine.running:
        await asyncio.sleep(0.001)
    assert (await metric_values(live))["fastserve:request_success_total", "abort"] == 1


async def test_vllm_names_come_unless_they_are_not_wanted(engine, direct):
    text = (await direct.http.get("/metrics")).text
    for name in ("num_requests_running", "time_to_first_token_seconds_bucket", "kv_cache_usage_perc"):
        assert f"vllm:{name}" in text and f"fastserve:{name}" in text
    async with live_server(engine, ServerConfig(metrics_compat="none")) as live:
        assert "vllm:" not in (await live.http.get("/metrics")).text


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_ping_is_health_and_open(engine, method):
    async with live_server(engine, ServerConfig(api_key=("secret",))) as live:
        assert (await live.http.request(method, "/ping")).status_code == 200
        engine.is_alive = False
        assert (await live.http.request(method, "/ping")).status_code == 503


async def test_load_counts_what_is_unfinished(live):
    live.engine.script.gate = asyncio.Event()
    assert (await live.http.get("/load")).json() == {"server_load": 0}
    running = asyncio.create_task(live.complete())
    while not live.engine.running:
        await asyncio.sleep(0)
    assert (await live.http.get("/load")).json() == {"server_load": 1}
    live.engine.script.gate.set()
    await running


async def test_a_running_request_is_aborted_by_its_id(live):
    live.engine.running.add("mine")
    reply = await live.http.post("/v1/requests/mine/abort")
    assert reply.json() == {"id": "mine", "object": "request.aborted", "aborted": True}
    unknown = await live.http.post("/v1/requests/other/abort")
    assert unknown.status_code == 404 and unknown.json()["error"]["code"] == "request_not_found"


async def test_there_is_no_interactive_page_and_a_sentence_says_why(live):
    for path in ("/docs", "/redoc"):
        reply = await live.http.get(path)
        assert reply.status_code == 404 and "/openapi.json describes the API" in reply.json()["error"]["message"]


async def test_the_name_that_a_client_gives_its_request_comes_back(live):
    for path, prefix, body in (
        ("/v1/completions", "cmpl-", {"prompt": "hi"}),
        ("/v1/chat/completions", "chatcmpl-", {"messages": [{"role": "user", "content": "hi"}]}),
    ):
        reply = await live.http.post(path, json=body, headers={"X-Request-Id": "my-req-7"})
        assert (reply.json()["id"], reply.headers["x-request-id"]) == (f"{prefix}my-req-7", "my-req-7")
        both = await live.http.post(path, json=body | {"request_id": "own"}, headers={"X-Request-Id": "my-req-7"})
        assert (both.json()["id"], both.headers["x-request-id"]) == ("own", "my-req-7")
        for bad in ("a b", "x" * 129, "<script>"):
            reply = await live.http.post(path, json=body, headers={"X-Request-Id": bad})
            assert reply.headers["x-request-id"] == reply.json()["id"] and bad not in reply.text


async def test_requests_of_one_name_at_a_time_are_kept_apart(live):
    live.engine.script.delay_s = 0.01
    replies = await asyncio.gather(
        *(live.http.post("/v1/completions", json={"prompt": "hi"}, headers={"X-Request-Id": "same"}) for _ in range(4))
    )
    assert [reply.status_code for reply in replies] == [200] * 4
    ids = {reply.json()["id"] for reply in replies}
    assert len(ids) == 4 and all(i.startswith("cmpl-same") for i in ids)
