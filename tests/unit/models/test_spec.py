"""How long a sequence a model takes."""

import logging

import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.layers.rope_spec import RopeSpec, YarnScaling
from fastserve.models.spec import DecoderSpec, context_limit, resolve_max_model_len


def spec(**fields: object) -> DecoderSpec:
    sizes = {
        "architecture": "LlamaForCausalLM",
        "num_layers": 1,
        "hidden_size": 64,
        "embedding_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "num_kv_heads": 1,
        "head_dim": 32,
        "vocab_size": 100,
        "max_position": 1000,
    }
    return DecoderSpec(**sizes | fields)


def test_the_default_is_the_limit_of_the_model() -> None:
    assert resolve_max_model_len(spec(), None) == 1000
    assert resolve_max_model_len(spec(), 1000) == 1000
    assert resolve_max_model_len(spec(), 10) == 10


def test_more_than_the_limit_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"at most 1000 tokens.*got 1001; lower --max-model-len"):
        resolve_max_model_len(spec(), 1001)


def test_a_sliding_window_ends_the_context(caplog: pytest.LogCaptureFixture) -> None:
    windowed = spec(sliding_window=300)
    with caplog.at_level(logging.WARNING):
        assert resolve_max_model_len(windowed, None) == 300
    assert "context limited to 300 tokens" in caplog.text
    with pytest.raises(InvalidArgumentError, match=r"sliding attention window.*lower --max-model-len"):
        resolve_max_model_len(windowed, 301)


def test_a_window_beyond_the_limit_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert resolve_max_model_len(spec(sliding_window=4096), None) == 1000
    assert caplog.text == ""


def test_yarn_reaches_beyond_the_positions_of_the_training() -> None:
    yarn = YarnScaling(4.0, 32.0, 1.0, 1.0, 1000, True)
    assert context_limit(spec(rope=RopeSpec(10000.0, 32, yarn))) == 4000
