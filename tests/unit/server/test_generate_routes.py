"""The two generation routes as the openai client and plain HTTP see them."""

import json

import pytest

from fastserve.types import FinishReason
from tests.unit.server.fake_engine import BOS, Script

TEXT = "Hello, wörld"


async def test_completion_returns_text_usage_and_pauses(live):
    reply = await live.openai.completions.create(model="fake", prompt="hi", max_tokens=10)
    assert reply.choices[0].text == TEXT
    assert reply.choices[0].finish_reason == "stop"
    assert reply.object == "text_completion"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (3, 3, 6)
    assert reply.usage.prompt_tokens_details.cached_tokens == 4
    assert reply.usage.model_extra["fastserve"] == {
        "preemptions": 2,
        "parked_s": 0.5,
        "host_s": 0.25,
        "upload_wait_s": 0.125,
        "recomputed_tokens": 7,
        "queue_s": 0.0625,
    }


async def test_completion_stream_has_the_same_text_and_ends_with_usage(live):
    stream = await live.openai.completions.create(
        model="fake", prompt="hi", stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].text for c in chunks if c.choices) == TEXT
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None, None, None, "stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 3
    assert all(c.usage is None for c in chunks[:-1])
    assert len({c.id for c in chunks}) == 1


async def test_chat_returns_a_message(live):
    reply = await live.openai.chat.completions.create(model="fake", messages=[{"role": "user", "content": "hi"}])
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].message.content == TEXT
    assert bytes(live.engine.calls[0].prompt_token_ids) == b"user: hi\nassistant: "


async def test_chat_stream_opens_with_the_role(live):
    stream = await live.openai.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == TEXT
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {c.object for c in chunks} == {"chat.completion.chunk"}


async def test_stream_ends_with_done_and_no_proxy_may_buffer_it(live):
    reply = await live.complete(stream=True, request_id="req-1")
    assert reply.text.endswith("data: [DONE]\n\n")
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.headers["x-accel-buffering"] == "no"
    assert reply.headers["x-request-id"] == "req-1"


async def test_n_choices_of_several_prompts_are_indexed_prompt_by_prompt(live):
    reply = await live.complete(prompt=["a", "bc"], n=2, max_tokens=2)
    body = reply.json()
    assert [c["index"] for c in body["choices"]] == [0, 1, 2, 3]
    assert {c["text"] for c in body["choices"]} == {"Hello,"}
    assert body["usage"]["prompt_tokens"] == 2 + 3
    assert body["usage"]["completion_tokens"] == 8
    assert [call.request_id for call in live.engine.calls] == [body["id"]], "one call of the engine, one id"


async def test_streamed_choices_of_several_prompts_each_have_the_whole_text(live):
    stream = await live.openai.completions.create(model="fake", prompt=["a", "b"], n=2, stream=True)
    texts = dict.fromkeys(range(4), "")
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert set(texts.values()) == {TEXT}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("hi", [[BOS, 104, 105]]), ([1, 2], [[1, 2]]), (["a"], [[BOS, 97]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
async def test_prompts_come_as_text_ids_or_lists_of_either(live, prompt, expected):
    assert (await live.complete(prompt=prompt)).status_code == 200
    assert [call.prompts for call in live.engine.calls] == [expected]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", {"prompt": "hi", "logprobs": 3}),
        ("chat/completions", {"messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 3}),
    ],
)
async def test_sampling_fields_reach_the_engine(live, path, body):
    fields = {
        "max_tokens": 9,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.1,
        "seed": 7,
        "stop_token_ids": [3],
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "n": 2,
    }
    names = {
        "stop": "x",
        "priority": -4,
        "cache_salt": "tenant",
        "length_class": "chat",
        "request_id": "mine",
        "deadline_s": 60,
        "max_pause_s": 0.5,
        "ttft_slo_s": 1,
        "tpot_slo_s": 0.05,
    }
    reply = await live.post(f"/v1/{path}", **body, **fields, **names)
    assert reply.status_code == 200
    call = live.engine.calls[0]
    for name, value in fields.items():
        assert getattr(call.sampling, name) == (tuple(value) if isinstance(value, list) else value)
    assert call.sampling.stop == ("x",)
    assert call.sampling.logprobs == 3
    scheduling = call.scheduling
    assert (scheduling.priority, scheduling.cache_salt, scheduling.length_class) == (-4, "tenant", "chat")
    assert 59 < scheduling.deadline_s <= 60
    assert (scheduling.max_pause_s, scheduling.ttft_slo_s, scheduling.tpot_slo_s) == (0.5, 1.0, 0.05)
    assert call.request_id == "mine"
    assert reply.json()["id"] == "mine"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, b"user: hi\nassistant: "),
        ({"add_generation_prompt": False}, b"user: hi\n"),
        ({"add_special_tokens": True}, [BOS, *b"user: hi\nassistant: "]),
    ],
)
async def test_chat_fields_shape_the_prompt(live, fields, expected):
    assert (await live.chat(**fields)).status_code == 200
    assert live.engine.calls[0].prompt_token_ids == list(expected)


async def test_completion_may_leave_out_special_tokens(live):
    assert (await live.complete(add_special_tokens=False)).status_code == 200
    assert live.engine.calls[0].prompt_token_ids == list(b"hi")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_both_names_of_the_limit_of_a_chat_work(live, name):
    assert (await live.chat(**{name: 2})).json()["usage"]["completion_tokens"] == 2


async def test_default_length_is_16_for_completions_and_the_context_for_chat(live):
    live.engine.script = Script(endless=True)
    replies = [await live.complete(prompt=[[1] * 10, [1] * 505]), await live.chat()]
    lengths = [reply.json()["usage"]["completion_tokens"] for reply in replies]
    assert lengths == [16 + 7, 512 - len("user: hi\nassistant: ")]
    assert [call.sampling.max_tokens for call in live.engine.calls] == [16, None]


@pytest.mark.parametrize(("asked", "given"), [(501, 501), (502, 502), (503, 502), (512, 502)])
async def test_output_is_cut_to_what_the_prompt_leaves_of_the_context(live, asked, given):
    live.engine.script = Script(endless=True)
    reply = await live.complete(prompt=[97] * 10, max_tokens=asked)
    assert reply.json()["usage"]["completion_tokens"] == given


async def test_echo_puts_the_prompt_before_the_text(live):
    assert (await live.complete(prompt="say ", echo=True)).json()["choices"][0]["text"] == "say " + TEXT
    assert (await live.complete(prompt=[104, 105], echo=True)).json()["choices"][0]["text"] == "hi" + TEXT
    stream = await live.openai.completions.create(model="fake", prompt="say ", echo=True, stream=True)
    assert "".join([c.choices[0].text async for c in stream]) == "say " + TEXT


async def test_completion_logprobs_have_one_row_per_token(live):
    choice = (await live.complete(logprobs=2)).json()["choices"][0]
    assert choice["logprobs"]["token_logprobs"] == [-0.5] * 3
    assert choice["logprobs"]["tokens"] == ["H", ",", " "]
    assert choice["logprobs"]["text_offset"] == [0, 1, 2]
    assert choice["logprobs"]["top_logprobs"][0] == {"a": -0.5, "H": -0.5, "b": -1.5}


async def test_chat_logprobs_have_bytes_and_alternatives(live):
    stream = await live.openai.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": "hi"}], logprobs=True, top_logprobs=1, stream=True
    )
    rows = [r async for c in stream if c.choices[0].logprobs for r in c.choices[0].logprobs.content]
    assert [r.token for r in rows] == ["H", ",", " "]
    assert rows[0].bytes == [72] and rows[0].top_logprobs[0].token == "H"
    whole = (await live.chat(logprobs=True)).json()["choices"][0]["logprobs"]["content"]
    assert len(whole) == 3 and whole[0]["top_logprobs"] == []


async def test_stop_reason_is_in_the_reply(live):
    live.engine.script = Script(stop_reason="END")
    assert (await live.complete()).json()["choices"][0]["stop_reason"] == "END"
    lines = (await live.complete(stream=True)).text.splitlines()
    last = [json.loads(line[6:]) for line in lines if line.startswith("data: {")][-1]
    assert last["choices"][0]["stop_reason"] == "END"


async def test_continuous_usage_counts_up(live):
    reply = await live.complete(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    rows = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert [row["usage"]["completion_tokens"] for row in rows] == [1, 2, 3, 3, 3]


async def test_developer_role_parts_and_names_reach_the_template(live):
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]},
        {"role": "user", "content": "hi", "name": "ann"},
    ]
    assert (await live.post("/v1/chat/completions", messages=messages)).status_code == 200
    assert bytes(live.engine.calls[0].prompt_token_ids) == b"system: be\nbrief\nuser/ann: hi\nassistant: "


async def test_fields_that_are_off_are_accepted(live):
    reply = await live.chat(
        tools=None,
        tool_choice="none",
        logit_bias={},
        user="u",
        metadata={"k": "v"},
        store=False,
        response_format={"type": "text"},
        parallel_tool_calls=True,
        service_tier="auto",
        stream_options=None,
        stop=None,
        max_tokens=None,
        temperature=None,
    )
    assert reply.status_code == 200
    assert (await live.complete(best_of=1, suffix=None, logit_bias=None)).status_code == 200


async def test_aborted_choice_says_so(live):
    live.engine.script = Script(finish=FinishReason.ABORT)
    assert (await live.complete()).json()["choices"][0]["finish_reason"] == "abort"


async def test_scheduler_events_are_comments_that_clients_skip(live):
    plain = await live.complete(stream=True)
    assert "\n: " not in plain.text
    reply = await live.complete(stream=True, n=2, stream_options={"include_events": True})
    events = [json.loads(line[2:]) for line in reply.text.splitlines() if line.startswith(": ")]
    assert {event["index"] for event in events} == {0, 1}
    assert events[0] == {"index": events[0]["index"], "state": "parked", "level": 1}
    stream = await live.openai.completions.create(
        model="fake", prompt="hi", stream=True, extra_body={"stream_options": {"include_events": True}}
    )
    assert "".join([c.choices[0].text async for c in stream if c.choices]) == TEXT
