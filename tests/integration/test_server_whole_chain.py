"""`fastserve serve` on a tiny checkpoint, from the command line to the last token: nothing is faked."""

import concurrent.futures
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Annotated, Literal

import httpx
import openai
import psutil
import pydantic
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.checkpoints import tiny_checkpoint

FLAGS = ("--max-model-len", "256", "--num-gpu-blocks-override", "24", "--num-host-blocks-override", "256",
         "--max-num-seqs", "4", "--max-num-batched-tokens", "64", "--max-prefill-chunk-tokens", "32",
         "--num-threads", "1", "--served-model-name", "tiny", "--port", "0", "--shutdown-timeout", "20")  # fmt: skip
LIMIT_S = 60.0


@contextlib.contextmanager
def serve(*flags: str) -> Iterator[tuple[subprocess.Popen, httpx.Client, openai.OpenAI]]:
    """Run the command until the body ends; yields once it is ready."""
    command = [sys.executable, "-m", "fastserve.cli.main", "serve", str(tiny_checkpoint("llama")), *FLAGS, *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        with httpx.Client(base_url=url, timeout=LIMIT_S) as http:
            end_s = time.monotonic() + LIMIT_S
            while http.get("/readyz").status_code != 200:
                assert time.monotonic() < end_s and process.poll() is None
                time.sleep(0.05)
            with openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
                yield process, http, client
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[subprocess.Popen, httpx.Client, openai.OpenAI]]:
    with serve() as parts:
        yield parts


def ask(client: openai.OpenAI, which: int, **fields):
    """A completion of 40 tokens that does not end early."""
    prompt = [3 + (which * 7 + i * 5) % 90 for i in range(20 + which)]
    return client.completions.create(
        model="tiny", prompt=prompt, **{"max_tokens": 40, "extra_body": {"ignore_eos": True}} | fields
    )


def test_stream_and_whole_reply_are_the_same_text(served):
    _, _, client = served
    whole = ask(client, 1, temperature=0)
    stream = ask(client, 1, temperature=0, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 40


def test_requests_that_compete_for_memory_get_the_text_they_get_alone(served):
    _, http, client = served
    alone = [ask(client, seed, temperature=0).choices[0].text for seed in range(12)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda seed: ask(client, seed, temperature=0).choices[0].text, range(12)))
    assert together == alone
    values = {
        s.name: s.value for family in text_string_to_metric_families(http.get("/metrics").text) for s in family.samples
    }
    assert values["fastserve:generation_tokens_total"] >= 24 * 40
    assert values["fastserve:iteration_tokens_total_count"] > 40
    assert values["fastserve:kv_cache_usage_perc"] <= 1.0


def test_same_seed_gives_the_same_samples(served):
    _, _, client = served
    texts = [ask(client, 3, temperature=1.0, seed=11, n=2) for _ in range(2)]
    assert [c.text for c in texts[0].choices] == [c.text for c in texts[1].choices]
    assert texts[0].choices[0].text != texts[0].choices[1].text


def test_logprobs_and_usage_come_from_the_engine(served):
    _, _, client = served
    reply = ask(client, 2, temperature=0, logprobs=2)
    rows = reply.choices[0].logprobs
    assert len(rows.token_logprobs) == 40 and all(value <= 0 for value in rows.token_logprobs)
    assert rows.token_logprobs[0] == pytest.approx(max(rows.top_logprobs[0].values()))
    assert reply.usage.model_extra["fastserve"]["queue_s"] >= 0


def test_deadline_that_passes_is_an_error(served):
    _, http, _ = served
    body = {"prompt": [5] * 30, "max_tokens": 200, "ignore_eos": True, "deadline_s": 0.01}
    reply = http.post("/v1/completions", json=body)
    assert reply.status_code == 504 and reply.json()["error"]["code"] == "deadline_exceeded"


POISON = [
    ({"repetition_penalty": 1e-300}, 400),  # 0 as a float32
    ({"repetition_penalty": 1e-40}, 400),
    ({"top_p": 5e-324}, 200),  # 0 as a float32: the likeliest token alone
    ({"temperature": 5e-324}, 200),  # greedy
    ({"min_p": 5e-324, "presence_penalty": 5e-324, "frequency_penalty": -5e-324}, 200),
    ({"stop_token_ids": [2**31 - 1], "min_tokens": 3}, 200),  # banned, and in no vocabulary
    ({"deadline_s": 5e-324}, 504),
    ({"seed": -(2**63), "top_k": 2**31 - 1}, 200),
]


def test_requests_with_numbers_at_the_end_of_their_range_hurt_no_other_request(served):
    process, http, client = served
    alone = [ask(client, i, max_tokens=150, temperature=0).choices[0].text for i in range(3)]
    streams = [ask(client, i, max_tokens=150, temperature=0, stream=True) for i in range(3)]
    texts = [next(iter(stream)).choices[0].text for stream in streams]
    for fields, status in POISON * 2:
        reply = http.post("/v1/completions", content=body(**fields))
        assert reply.status_code == status, (fields, reply.text)
        if status == 400:
            message = "repetition_penalty must be a number between 1e-06 and 10, got "
            assert reply.json()["error"]["message"].startswith(message)
    for i, stream in enumerate(streams):
        texts[i] += "".join(chunk.choices[0].text for chunk in stream)
    assert texts == alone
    assert process.poll() is None and http.get("/readyz").status_code == 200


def test_client_that_leaves_empties_the_engine(served):
    _, http, client = served
    stream = ask(client, 1, stream=True, n=4)
    next(iter(stream))
    stream.close()
    end_s = time.monotonic() + 10
    while not re.search(r"^fastserve:num_requests_running\{.*\} 0", http.get("/metrics").text, re.MULTILINE):
        assert time.monotonic() < end_s
        time.sleep(0.02)


def body(**fields: object) -> bytes:
    """A completion request as JSON."""
    return json.dumps({"prompt": "hi", "max_tokens": 4} | fields).encode()


BAD_REQUESTS = [
    ("prompt longer than the context", body(prompt=[5] * 256), 400, "prompt"),
    ("text longer than the context", body(prompt="word " * 3000), 400, "prompt"),
    ("token id beyond the vocabulary", body(prompt=[5, 512]), 400, "prompt"),
    ("negative token id", body(prompt=[-1]), 400, "prompt"),
    ("no prompt", body(prompt=[]), 400, "prompt"),
    ("empty text", body(prompt=""), 400, "prompt"),
    ("a billion choices", body(n=10**9), 400, "n"),
    ("a billion tokens", body(max_tokens=10**9), 400, "max_tokens"),
    ("negative temperature", body(temperature=-1), 400, "temperature"),
    ("negative max_tokens", body(max_tokens=-5), 400, "max_tokens"),
    ("negative top_p", body(top_p=-0.5), 400, "top_p"),
    ("penalty beyond its range", body(presence_penalty=3), 400, "presence_penalty"),
    ("NaN", b'{"prompt":"a","temperature":NaN}', 400, None),
    ("infinity", b'{"prompt":"a","top_p":1e999}', 400, None),
    ("10 MB", body(prompt="x" * 10_000_000), 413, None),
    ("bytes that are no UTF-8", b'{"prompt":"\xff\xfe"}', 400, None),
    ("another model", body(model="gpt-5"), 404, "model"),
    ("a field that is not supported", body(suffix="x"), 400, "suffix"),
]


def test_bad_requests_are_refused_by_name_and_hurt_no_other(served):
    _, http, client = served
    long = {"temperature": 0, "max_tokens": 200}
    alone = [ask(client, which, **long).choices[0].text for which in range(6)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        others = [pool.submit(ask, client, which, **long) for which in range(6)]
        for what, content, status, param in BAD_REQUESTS:
            reply = http.post("/v1/completions", content=content)
            assert reply.status_code == status, f"{what}: {reply.text}"
            assert reply.json()["error"]["param"] == param, what
            gone = ask(client, 7, stream=True, max_tokens=100)
            next(iter(gone))
            gone.close()
        assert [other.result().choices[0].text for other in others] == alone
    assert http.get("/readyz").status_code == 200


def test_sigterm_lets_a_stream_finish_and_exits_0_without_leaving_the_engine_behind():
    with serve() as (process, _, client):
        engine = psutil.Process(process.pid).children()
        stream = iter(ask(client, 1, temperature=0, stream=True))
        next(stream)
        process.send_signal(signal.SIGTERM)
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"
        assert process.wait(LIMIT_S) == 0
        assert not any(child.is_running() for child in engine)


def test_killed_engine_ends_the_server_with_1():
    with serve() as (process, http, client):
        (engine,) = psutil.Process(process.pid).children()
        stream = iter(ask(client, 1, stream=True, max_tokens=200))
        next(stream)
        os.kill(engine.pid, signal.SIGKILL)
        killed_s = time.monotonic()
        with pytest.raises(openai.APIError, match="engine"):
            list(stream)
        assert time.monotonic() - killed_s < 2.0
        assert http.get("/livez").status_code == 503
        assert process.wait(LIMIT_S) == 1


class Animal(pydantic.BaseModel):
    kind: Literal["cat", "dog"]
    legs: Annotated[int, pydantic.Field(ge=0, le=9)]
    names: Annotated[list[Annotated[str, pydantic.Field(max_length=4)]], pydantic.Field(min_length=1, max_length=2)]


def chat(client: openai.OpenAI, **fields):
    return client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], **{"max_tokens": 220, "seed": 3} | fields
    )


def test_openai_parses_an_answer_into_a_pydantic_model(served):
    _, _, client = served
    messages = [{"role": "user", "content": "hi"}]
    parsed = []
    for seed in range(8):
        with contextlib.suppress(openai.LengthFinishReasonError):  # a random model may write blank after blank
            reply = client.chat.completions.parse(
                model="tiny", messages=messages, response_format=Animal, max_tokens=220, seed=seed
            )
            parsed.append(reply.choices[0].message.parsed)
    assert parsed and all(isinstance(animal, Animal) for animal in parsed)


def test_streams_have_the_form_and_read_as_the_whole_reply(served):
    _, _, client = served
    form = {"regex": r"[a-z]{2,5}(, [a-z]{2,5}){3}"}
    fields = {"extra_body": {"structured_outputs": form}, "n": 2, "logprobs": True}
    whole = chat(client, **fields)
    texts, reasons = ["", ""], [None, None]
    for chunk in chat(client, stream=True, **fields):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == ["stop", "stop"]
    for choice in whole.choices:
        assert re.fullmatch(form["regex"], choice.message.content)
        assert all(token.logprob > -1e9 for token in choice.logprobs.content)


def test_a_bad_form_is_a_400_and_hurts_no_other_request(served):
    _, http, client = served
    with pytest.raises(openai.BadRequestError, match=r"structured_outputs\.regex cannot be used: Regex parsing error"):
        chat(client, extra_body={"structured_outputs": {"regex": "a("}})
    assert chat(client, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}).choices[0].message.content in (
        "yes",
        "no",
    )
    body = {
        "prompt": "hi",
        "max_tokens": 64,
        "structured_outputs": {"regex": "[0-9]{3}", "disable_any_whitespace": False},
    }
    assert re.fullmatch("[0-9]{3}", http.post("/v1/completions", json=body).json()["choices"][0]["text"])


PET = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "age": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["kind", "age"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "keep", "parameters": PET}}]
NAMED = {"type": "function", "function": {"name": "keep"}}


@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_a_model_that_must_call_a_tool_keeps_its_schema(served, choice, reason):
    _, _, client = served
    fields = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, "tool_choice": choice,
              "parallel_tool_calls": False, "seed": 4, "max_tokens": 200, "temperature": 0.9}  # fmt: skip
    (whole,) = client.chat.completions.create(**fields).choices
    (call,) = whole.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert arguments.keys() == {"kind", "age"} and arguments["kind"] in ("cat", "dog") and 0 <= arguments["age"] <= 9
    assert (call.function.name, whole.finish_reason, whole.message.content) == ("keep", reason, None)
    deltas = [chunk.choices[0] for chunk in client.chat.completions.create(**fields, stream=True)]
    parts = [part for choice in deltas for part in choice.delta.tool_calls or ()]
    assert [part.function.name for part in parts if part.function.name] == ["keep"]
    assert "".join(part.function.arguments for part in parts) == call.function.arguments
    assert deltas[-1].finish_reason == reason


def test_tools_that_the_grammar_cannot_hold_are_refused(served):
    _, http, _ = served
    odd = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {"type": "null"}}}}
    body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [odd], "tool_choice": "required"}
    reply = http.post("/v1/chat/completions", json=body)
    assert reply.status_code == 400 and reply.json()["error"]["param"] == "tools"
    reply = http.post("/v1/chat/completions", json=body | {"tool_choice": "auto"})
    assert reply.status_code == 400 and "--enable-auto-tool-choice" in reply.json()["error"]["message"]
