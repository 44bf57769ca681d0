"""Log-probabilities in OpenAI's shapes: the chosen token is always among the alternatives."""

import pytest

from fastserve.logprobs import TokenLogprobs
from fastserve.server.responses.logprobs import ChatLogprobs, CompletionLogprobs
from tests.unit.server.fake_engine import FakeTokenizer

H, A, B, C = map(ord, "Habc")


class TwoOfOneText(FakeTokenizer):
    """Token 300 has the text of token `a`."""

    def decode_token_bytes(self, token_id: int) -> bytes:
        return super().decode_token_bytes(A if token_id == 300 else token_id)


@pytest.mark.parametrize(
    ("top_ids", "expected"),
    [
        ((), {"H": -4.0}),
        ((A, B), {"a": -1.0, "b": -2.0, "H": -4.0}),
        ((A, H), {"a": -1.0, "H": -4.0}),
    ],
)
def test_completions_have_the_chosen_token_beside_the_likeliest(top_ids, expected):
    values = tuple(-4.0 if i == H else -1.0 - rank for rank, i in enumerate(top_ids))
    got = CompletionLogprobs(FakeTokenizer()).format([H], [TokenLogprobs(-4.0, 9, top_ids, values)])
    assert got["top_logprobs"] == [expected]
    assert list(got["top_logprobs"][0]) == list(expected)  # best first


@pytest.mark.parametrize(
    ("top_ids", "expected"), [((), []), ((A,), ["H"]), ((A, B, C), ["a", "b", "H"]), ((A, H, B), ["a", "H", "b"])]
)
def test_chats_have_the_chosen_token_in_the_place_of_the_last_when_it_is_none_of_the_likeliest(top_ids, expected):
    entry = TokenLogprobs(-4.0, 9, top_ids, tuple(-1.0 - rank for rank in range(len(top_ids))))
    row = ChatLogprobs(FakeTokenizer()).format([H], [entry])["content"][0]
    assert [alternative["token"] for alternative in row["top_logprobs"]] == expected


def test_of_two_tokens_with_one_text_the_chosen_one_is_shown():
    entry = TokenLogprobs(-4.0, 9, (A, B), (-1.0, -2.0))
    got = CompletionLogprobs(TwoOfOneText()).format([300], [entry])
    assert got["tokens"] == ["a"] and got["top_logprobs"] == [{"a": -4.0, "b": -2.0}]
