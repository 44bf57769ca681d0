"""A decoder that ranks share has the logits of one rank, bit for bit: prefill, decode, chunks, KV of local heads."""

from functools import cache
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fastserve import _C
from fastserve.distributed.single import SINGLE
from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.layers.vocabulary import TokenEmbedding
from fastserve.loader.dummy import DummyWeights
from fastserve.models.build import build_decoder
from fastserve.models.kv_cache import kv_block_shape
from fastserve.models.registry import read_spec
from fastserve.models.shard import Shard
from tests.checkpoints import copy_checkpoint, edit_config, tiny_checkpoint
from tests.rank_threads import ThreadGroup, run_ranks, thread_groups
from tests.sharded import CPU, load_shard, logits_of_ranks, run_requests

# 4 query heads of 32 or more and an MLP of 256: four ranks have whole segments. 2 KV heads: four ranks repeat them.
MODELS = {
    "llama": ("llama", {"intermediate_size": 256}),
    "llama with biases": ("llama", {"intermediate_size": 256, "attention_bias": True, "mlp_bias": True}),
    "qwen3": ("qwen3", {"intermediate_size": 256, "head_dim": 64}),
    "opt": ("opt", {"ffn_dim": 256}),
    "opt-350m": ("opt", {"ffn_dim": 256, "do_layer_norm_before": False, "word_embed_proj_dim": 64}),
}
DTYPES = [torch.float32, torch.bfloat16]


@cache
def checkpoint(model: str, vocab_size: int = 512) -> Path:
    family, fields = MODELS[model]
    return tiny_checkpoint(family, vocab_size=vocab_size, **fields)


@cache
def logits_of_one(folder: Path, dtype: torch.dtype, isa: str) -> torch.Tensor:
    """What `run_requests` gives on one rank with an instruction set, which must be the current one."""
    with torch.inference_mode():
        return run_requests(load_shard(folder, Shard(), SINGLE, dtype))


def check_ranks(folder: Path, dtype: torch.dtype, **sizes: int) -> None:
    expected = logits_of_one(folder, dtype, _C.cpu_isa())
    assert expected.isfinite().all()
    for logits in logits_of_ranks(folder, dtype, **sizes):
        assert torch.equal(logits, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tensor_size", [2, 4])
@pytest.mark.parametrize("model", MODELS)
def test_ranks_that_share_layers_have_the_logits_of_one(model: str, tensor_size: int, dtype: torch.dtype) -> None:
    check_ranks(checkpoint(model), dtype, tensor_size=tensor_size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 2), (1, 3), (2, 2)])
@pytest.mark.parametrize("model", ["llama", "opt", "opt-350m"])
def test_stages_have_the_logits_of_one_rank(model: str, sizes: tuple[int, int], dtype: torch.dtype) -> None:
    check_ranks(checkpoint(model), dtype, tensor_size=sizes[0], num_stages=sizes[1])


@pytest.mark.parametrize("model", ["llama", "opt"])
def test_a_vocabulary_that_does_not_divide_is_padded(model: str) -> None:
    check_ranks(checkpoint(model, vocab_size=513), torch.bfloat16, tensor_size=4)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("tensor_size", [2, 4, 8])
def test_every_instruction_set_has_the_bits_of_one_rank(isa: str, tensor_size: int, dtype: torch.dtype) -> None:
    folder = tiny_checkpoint("llama", num_attention_heads=8, head_dim=32, intermediate_size=768)
    check_ranks(folder, dtype, tensor_size=tensor_size)


def test_segments_may_be_empty() -> None:
    """192 inputs are 6 units of 32 in 8 segments."""
    check_ranks(tiny_checkpoint("llama", intermediate_size=192), torch.bfloat16, tensor_size=2)


def test_sums_are_taken_twice_per_layer_and_once_for_the_embedding() -> None:
    folder, groups = checkpoint("llama"), thread_groups(2)

    def work(group: ThreadGroup) -> int:
        decoder = load_shard(folder, Shard(group.rank, 2), group, torch.float32)
        run_requests(decoder)
        return group.num_sums

    num_sums = run_ranks(groups, work)
    assert num_sums[0] == num_sums[1]
    assert num_sums[0] % (2 * 3 + 1) == 0


def test_a_rank_has_the_kv_of_its_heads_and_layers() -> None:
    folder = checkpoint("llama")
    shapes = {
        (2, 1): (3, 2, 1, 16, 32),
        (4, 1): (3, 2, 1, 16, 32),
        (1, 2): (2, 2, 2, 16, 32),
        (2, 3): (1, 2, 1, 16, 32),
    }
    for (tensor_size, num_stages), shape in shapes.items():
        shard = Shard(0, tensor_size, 0, num_stages)
        decoder = load_shard(folder, shard, thread_groups(tensor_size)[0], torch.float32)
        assert kv_block_shape(decoder.spec, 16) == shape


def test_a_head_that_differs_from_the_tied_embedding_is_used_by_all_ranks(tmp_path: Path) -> None:
    folder = copy_checkpoint(checkpoint("opt"), tmp_path / "opt")
    path = folder / "model.safetensors"
    head = torch.randn(512, 128, generator=torch.Generator().manual_seed(3))
    head[:256] = safetensors.torch.load_file(path)["model.decoder.embed_tokens.weight"][:256]  # the first rank's rows
    safetensors.torch.save_file(safetensors.torch.load_file(path) | {"lm_head.weight": head}, path)
    check_ranks(folder, torch.float32, tensor_size=2, num_stages=2)


@pytest.mark.parametrize("shard", [Shard(0, 2), Shard(1, 2), Shard(0, 1, 0, 3), Shard(0, 1, 1, 3), Shard(0, 1, 2, 3)])
@pytest.mark.parametrize("lacking", ["model.layers.0.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_every_rank_refuses_a_checkpoint_that_lacks_a_tensor(tmp_path: Path, lacking: str, shard: Shard) -> None:
    folder = copy_checkpoint(checkpoint("llama"), tmp_path / "llama")
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name: tensor for name, tensor in tensors.items() if name != lacking}, path)
    with pytest.raises(CheckpointError, match=f"lacks the tensor {lacking}"):
        load_shard(folder, shard, thread_groups(shard.tensor_size)[shard.tensor_rank], torch.float32)


@pytest.mark.parametrize("shard", [Shard(0, 2), Shard(0, 1, 0, 2)])
def test_every_rank_refuses_a_checkpoint_with_layers_too_many(tmp_path: Path, shard: Shard) -> None:
    folder = copy_checkpoint(checkpoint("llama"), tmp_path / "llama")
    edit_config(folder, num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=r"no place for: model\.layers\.2\."):
        load_shard(folder, shard, thread_groups(shard.tensor_size)[0], torch.float32)


def test_dummy_weights_are_the_same_on_any_number_of_ranks() -> None:
    spec = read_spec(checkpoint("llama"))

    def work(group: ThreadGroup) -> torch.Tensor:
        shard = Shard(group.rank, group.size)
        return run_requests(
            build_decoder(spec, DummyWeights(1), shard, group, max_model_len=128, dtype=torch.float32, device=CPU)
        )

    (expected,) = run_ranks(thread_groups(1), work)
    for logits in run_ranks(thread_groups(4), work):
        assert torch.equal(logits, expected)


def test_shares_that_cut_a_segment_are_logged_once_and_are_close(caplog: pytest.LogCaptureFixture) -> None:
    folder = tiny_checkpoint("llama", intermediate_size=200)
    logits = logits_of_ranks(folder, torch.float32, tensor_size=4)
    assert caplog.text.count("tokens may differ from those of one rank") == 1
    torch.testing.assert_close(
        logits[0][0], logits_of_one(folder, torch.float32, _C.cpu_isa())[0], rtol=1e-3, atol=1e-3
    )


def test_a_group_of_another_size_than_the_shard_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="rank 1 of 2, got rank 0 of 1"):
        load_shard(checkpoint("llama"), Shard(1, 2), SINGLE, torch.float32)


def test_a_token_outside_the_vocabulary_is_refused_by_every_rank() -> None:
    def work(group: ThreadGroup) -> str:
        lookup = TokenEmbedding(torch.ones(3, 4), 5, group)
        assert torch.equal(lookup(torch.tensor([0, 4], dtype=torch.int32)), torch.ones(2, 4))
        with pytest.raises(InvalidArgumentError) as caught:
            lookup(torch.tensor([0, 5], dtype=torch.int32))
        return str(caught.value)

    assert run_ranks(thread_groups(2), work) == ["token ids must be between 0 and 4, got 5"] * 2


def test_an_embedding_keeps_the_sign_of_a_zero() -> None:
    table = torch.tensor([[-0.0, 1.0], [0.0, -0.0], [2.0, -3.0], [-0.0, 0.0]])
    ids = torch.tensor([0, 1, 2, 3, 0], dtype=torch.int32)

    def work(group: ThreadGroup) -> torch.Tensor:
        return TokenEmbedding(table[2 * group.rank :][:2].contiguous(), 4, group)(ids)

    for hidden in run_ranks(thread_groups(2), work):
        assert torch.equal(hidden.view(torch.int32), table[ids.long()].view(torch.int32))
