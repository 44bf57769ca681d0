"""The rotary table against that of transformers."""

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from fastserve.layers.rope_spec import LinearScaling, Llama3Scaling, RopeScaling, RopeSpec, YarnScaling
from fastserve.layers.rotary import rope_table

THETA = 10_000.0
CASES: dict[str, tuple[dict[str, object], RopeScaling | None]] = {
    "default": ({"rope_type": "default"}, None),
    "linear": ({"rope_type": "linear", "factor": 3.0}, LinearScaling(3.0)),
    "llama3": (
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 256,
        },
        Llama3Scaling(8.0, 1.0, 4.0, 256),
    ),
    "yarn": (
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "attention_factor": 1.25,
            "original_max_position_embeddings": 256,
        },
        YarnScaling(4.0, 16.0, 2.0, 1.25, 256, True),
    ),
    "yarn, not truncated": (
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "attention_factor": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 256,
        },
        YarnScaling(4.0, 32.0, 1.0, 1.0, 256, False),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_table_is_that_of_transformers(case: str) -> None:
    parameters, scaling = CASES[case]
    config = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=1024,
        rope_parameters={"rope_theta": THETA} | parameters,
    )
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(1024)[None])
    table = rope_table(RopeSpec(THETA, 64, scaling), 1024, torch.device("cpu"))
    assert table.dtype == torch.float32
    # An ulp of an angle near 1024 is 6e-5.
    torch.testing.assert_close(table[:, :32], cos[0, :, :32], atol=2e-4, rtol=0)
    torch.testing.assert_close(table[:, 32:], sin[0, :, :32], atol=2e-4, rtol=0)
    # The fastest pair turns by exactly one radian per token (times the scaling): no rounding at all.
    torch.testing.assert_close(table[:, 0], cos[0, :, 0], atol=1e-6, rtol=0)


def test_a_part_of_the_head_may_rotate() -> None:
    table = rope_table(RopeSpec(THETA, 16), 8, torch.device("cpu"))
    assert table.shape == (8, 16)
    assert torch.equal(table[0], torch.tensor([1.0] * 8 + [0.0] * 8))
