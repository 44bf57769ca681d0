"""Scored prompts in replies: `echo` with log-probabilities, `prompt_logprobs`, no output; in vLLM's shapes."""

import pytest

from fastserve.logprobs import PromptLogprobs
from fastserve.server.responses.response import INLINE_SCORED_TOKENS
from tests.unit.server.fake_engine import BOS


async def test_an_echo_with_logprobs_scores_prompt_and_output(direct):
    reply = await direct.complete(prompt=[*b"hi!"], echo=True, logprobs=2, max_tokens=1)
    (choice,) = reply.json()["choices"]
    assert choice["text"] == "hi!Hello"
    assert choice["logprobs"] == {
        "text_offset": [0, 1, 2, 3],
        "tokens": ["h", "i", "!", "H"],
        "token_logprobs": [None, -1.0, -2.0, -0.5],
        "top_logprobs": [
            None,
            {"a": -0.5, "b": -1.5, "i": -1.0},
            {"a": -0.5, "b": -1.5, "!": -2.0},
            {"H": -0.5, "a": -0.5, "b": -1.5},
        ],
    }
    assert "prompt_logprobs" not in choice
    assert direct.engine.calls[0].sampling.prompt_logprobs == 2


async def test_a_request_without_output_is_scored_alone(direct):
    reply = await direct.complete(prompt=[[*b"hi"], [*b"ho!"]], echo=True, logprobs=0, max_tokens=0, n=2)
    choices = reply.json()["choices"]
    assert [choice["text"] for choice in choices] == ["hi", "hi", "ho!", "ho!"]
    assert [choice["logprobs"]["token_logprobs"] for choice in choices[1:3]] == [[None, -1.0], [None, -1.0, -2.0]]
    assert choices[0]["finish_reason"] == "length"
    usage = reply.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 0)
    assert direct.serving.metrics.prompt_tokens._value.get() == 5


async def test_an_echo_without_output_is_the_prompt(direct):
    (choice,) = (await direct.complete(prompt="hi", echo=True, max_tokens=0)).json()["choices"]
    assert (choice["text"], choice["logprobs"]) == ("hi", None)
    assert direct.engine.calls[0].sampling.prompt_logprobs is None


EXPECTED = [
    None,
    {
        "105": {"logprob": -1.0, "rank": 2, "decoded_token": "i"},
        "97": {"logprob": -0.5, "rank": 1, "decoded_token": "a"},
    },
]


async def test_prompt_logprobs_are_a_field_of_each_choice_of_a_completion(direct):
    reply = await direct.complete(prompt=[*b"hi"], prompt_logprobs=1, n=2)
    assert [choice["prompt_logprobs"] for choice in reply.json()["choices"]] == [EXPECTED, EXPECTED]
    assert reply.json()["choices"][0]["logprobs"] is None


async def test_prompt_logprobs_are_a_field_of_a_chat(direct):
    reply = (await direct.chat(prompt_logprobs=0, max_tokens=1)).json()
    rows = reply["prompt_logprobs"]
    text = "user: hi\nassistant: "
    assert rows[0] is None and len(rows) == len(text)
    assert [next(iter(row.values()))["decoded_token"] for row in rows[1:]] == list(text[1:])
    assert rows[3] == {str(ord(text[3])): {"logprob": -3.0, "rank": 4, "decoded_token": text[3]}}
    assert "prompt_logprobs" not in (await direct.chat()).json()


async def test_a_long_prompt_is_worded_alike(direct):
    prompt = [BOS, *b"x" * (INLINE_SCORED_TOKENS + 10)]
    (choice,) = (await direct.complete(prompt=prompt, prompt_logprobs=1, max_tokens=1)).json()["choices"]
    assert len(choice["prompt_logprobs"]) == len(prompt)
    assert choice["prompt_logprobs"][300 - 50]["120"]["logprob"] == -250.0


@pytest.mark.parametrize("num_top", [0, 2])
def test_parts_are_cut_and_unpacked(num_top):
    part = PromptLogprobs(
        first=5,
        num_top=num_top,
        token_logprobs=b"\0\0\x80\xbf" * 3,
        ranks=b"\1\0\0\0\2\0\0\0\3\0\0\0",
        top_ids=bytes(range(12 * num_top)),
        top_logprobs=bytes(12 * num_top),
    )
    assert part.end == 8
    assert part.since(3) == part
    assert part.since(7).unpack() == part.unpack()[2:]
    assert [(entry.logprob, entry.rank) for entry in part.unpack()] == [(-1.0, 1), (-1.0, 2), (-1.0, 3)]
    assert [len(entry.top_ids) for entry in part.unpack()] == [num_top] * 3
