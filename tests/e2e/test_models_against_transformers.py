"""Every family against transformers on tiny random checkpoints: same logits, same greedy tokens."""

import random
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fastserve.config import ModelConfig
from fastserve.loader.load import LoadedModel, load_model
from tests.checkpoints import FAMILIES, VOCAB_SIZE, copy_checkpoint, reference_model, tiny_checkpoint
from tests.paged import PagedRunner, PagedSequence, all_logits, remaining

# fp32 sums in another order: errors near 1e-5 on logits of size 2.
FP32_TOLERANCE = 1e-3
PROMPT_LENGTHS = (1, 7, 16, 33, 90)

ROPE = {"rope_theta": 10_000.0}
VARIANTS = {
    **{family: (family, {}) for family in FAMILIES},
    "llama, multi-head": ("llama", {"num_key_value_heads": 4}),
    "llama, one kv head": ("llama", {"num_key_value_heads": 1}),
    "llama, head_dim of its own": ("llama", {"head_dim": 64}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, gelu": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "llama, linear scaling": ("llama", {"rope_parameters": ROPE | {"rope_type": "linear", "factor": 4.0}}),
    "llama, llama3 scaling": (
        "llama",
        {
            "rope_parameters": ROPE
            | {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen2, yarn scaling": (
        "qwen2",
        {"rope_parameters": ROPE | {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}},
    ),
    "qwen2, untied": ("qwen2", {"tie_word_embeddings": False}),
    "qwen3, biases": ("qwen3", {"attention_bias": True}),
    "opt, untied": ("opt", {"tie_word_embeddings": False}),
    "opt, no biases": ("opt", {"enable_bias": False}),
    "opt, gelu": ("opt", {"activation_function": "gelu"}),
    "opt, norms behind, narrow embedding": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 64}),
}


def prompts(seed: int = 0) -> list[list[int]]:
    generator = random.Random(seed)
    return [[generator.randrange(3, VOCAB_SIZE) for _ in range(length)] for length in PROMPT_LENGTHS]


def load(folder: Path, **fields: object) -> LoadedModel:
    return load_model(ModelConfig(model=str(folder), **fields))


@torch.inference_mode()
def reference_generate(model: torch.nn.Module, prompt: list[int], num_tokens: int) -> list[int]:
    ids = list(prompt)
    for _ in range(num_tokens):  # without a cache: its argument has another name from release to release
        ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_transformers_in_fp32(variant: str) -> None:
    family, overrides = VARIANTS[variant]
    folder = tiny_checkpoint(family, **overrides)
    reference, decoder = reference_model(folder), load(folder).decoder
    for prompt in prompts():
        with torch.inference_mode():
            expected = reference(torch.tensor([prompt])).logits[0, -1]
        [logits] = PagedRunner(decoder).step([(PagedSequence(list(prompt)), len(prompt))]).values()
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected, atol=FP32_TOLERANCE, rtol=FP32_TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_of_a_chunked_mixed_batch_are_those_of_transformers(family: str) -> None:
    folder = tiny_checkpoint(family)
    reference, decoder = reference_model(folder), load(folder).decoder
    outputs = PagedRunner(decoder).generate(prompts(), 64, chunk=13)
    for prompt, output in zip(prompts(), outputs, strict=True):
        assert output == reference_generate(reference, prompt, 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_agrees_with_transformers_on_most_greedy_tokens(family: str) -> None:
    """Teacher-forced, so that one near tie does not change all tokens after it."""
    folder = tiny_checkpoint(family, dtype="bfloat16")
    reference, loaded = reference_model(folder), load(folder)
    assert loaded.dtype == torch.bfloat16
    token_ids = [random.Random(1).randrange(3, VOCAB_SIZE) for _ in range(200)]
    with torch.inference_mode():
        expected = reference(torch.tensor([token_ids])).logits[0].float()
    logits = all_logits(loaded.decoder, token_ids)
    agreement = (logits.argmax(-1) == expected.argmax(-1)).float().mean().item()
    assert agreement >= 0.95


def test_a_sharded_checkpoint_gives_the_same_logits() -> None:
    whole, sharded = tiny_checkpoint("llama"), tiny_checkpoint("llama", max_shard_size="300KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    token_ids = prompts()[1]
    assert torch.equal(all_logits(load(whole).decoder, token_ids), all_logits(load(sharded).decoder, token_ids))


def test_a_head_of_its_own_in_a_tied_checkpoint_is_used_as_transformers_does(tmp_path: Path) -> None:
    folder = copy_checkpoint(tiny_checkpoint("qwen2"), tmp_path / "qwen2")
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].flip(0).contiguous()
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})
    with torch.inference_mode():
        expected = reference_model(folder)(torch.tensor([prompts()[1]])).logits[0]
    logits = all_logits(load(folder).decoder, prompts()[1])
    torch.testing.assert_close(logits, expected, atol=FP32_TOLERANCE, rtol=FP32_TOLERANCE)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_have_the_same_bits_whatever_the_batch_and_the_chunks(family: str, dtype: str) -> None:
    """What lets a request be preempted, recomputed and batched again without a change in its output."""
    decoder = load(tiny_checkpoint(family, dtype=dtype)).decoder
    alone = []
    for prompt in prompts():
        alone += PagedRunner(decoder, seed=1).step([(PagedSequence(list(prompt)), len(prompt))]).values()
    runner, together = PagedRunner(decoder, seed=2), {}
    sequences = [PagedSequence(list(prompt)) for prompt in prompts()]
    for chunk in (1, 5, 100):
        active = [index for index, sequence in enumerate(sequences) if remaining(sequence)]
        work = [(sequences[index], min(chunk, remaining(sequences[index]))) for index in active]
        together |= {active[position]: logits for position, logits in runner.step(work).items()}
    for index, expected in enumerate(alone):
        assert torch.equal(together[index], expected)


def test_a_step_may_want_no_logits() -> None:
    decoder = load(tiny_checkpoint("llama")).decoder
    assert PagedRunner(decoder).step([(PagedSequence(prompts()[3]), 20)]) == {}
