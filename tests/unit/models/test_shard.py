"""What a rank has of a decoder, and which groups a decoder cannot be shared by."""

from dataclasses import replace

import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.models.shard import WHOLE, Shard, has_bits_of_one_rank, local_spec
from fastserve.models.spec import DecoderSpec

LLAMA_8B = DecoderSpec(
    architecture="LlamaForCausalLM",
    num_layers=32,
    hidden_size=4096,
    embedding_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_position=8192,
)


def shards(tensor_size: int = 1, num_stages: int = 1) -> list[Shard]:
    return [Shard(rank, tensor_size, stage, num_stages) for stage in range(num_stages) for rank in range(tensor_size)]


def test_one_rank_has_the_whole_decoder() -> None:
    assert local_spec(LLAMA_8B, WHOLE) == LLAMA_8B
    assert WHOLE.is_first and WHOLE.is_last
    assert WHOLE.vocabulary(128256) == range(128256)


def test_ranks_divide_heads_and_mlp_and_keep_the_rest() -> None:
    local = local_spec(LLAMA_8B, Shard(3, 4))
    assert local == replace(LLAMA_8B, num_heads=8, num_kv_heads=2, intermediate_size=3584)
    assert [shard.part(32) for shard in shards(4)] == [range(0, 8), range(8, 16), range(16, 24), range(24, 32)]


def test_kv_heads_are_divided_or_repeated_beside_their_query_heads() -> None:
    assert [shard.kv_heads(8) for shard in shards(2)] == [range(0, 4), range(4, 8)]
    assert [shard.kv_heads(2).start for shard in shards(8)] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [local_spec(LLAMA_8B, shard).num_kv_heads for shard in shards(16)] == [1] * 16
    for size in (1, 2, 4, 8, 16, 32):
        for shard in shards(size):
            heads, kv_heads = shard.part(32), shard.kv_heads(8)
            assert {head // 4 for head in heads} == set(kv_heads)


def test_every_rank_has_as_many_tokens() -> None:
    assert [shard.vocabulary(10) for shard in shards(4)] == [range(0, 3), range(3, 6), range(6, 9), range(9, 12)]
    assert [len(shard.vocabulary(5)) for shard in shards(4)] == [2] * 4
    assert [shard.vocabulary(5) for shard in shards(4)][-1] == range(6, 8)


def test_the_first_stages_have_the_layers_left_over() -> None:
    assert [shard.layers(3) for shard in shards(num_stages=2)] == [range(0, 2), range(2, 3)]
    assert [len(shard.layers(32)) for shard in shards(num_stages=5)] == [7, 7, 6, 6, 6]
    assert [(shard.is_first, shard.is_last) for shard in shards(2, 3)] == [
        (True, False),
        (True, False),
        (False, False),
        (False, False),
        (False, True),
        (False, True),
    ]
    assert [local_spec(LLAMA_8B, shard).num_layers for shard in shards(2, 3)] == [11, 11, 11, 11, 10, 10]


@pytest.mark.parametrize(
    ("fields", "shard", "message"),
    [
        (
            {},
            Shard(0, 3),
            "tensor_parallel_size 3 does not divide the 32 attention heads of LlamaForCausalLM: use 1, 2, 4, 8, 16 or 32",
        ),
        (
            {"num_heads": 12, "num_kv_heads": 4, "intermediate_size": 48},
            Shard(0, 3),
            "tensor_parallel_size 3 does not divide the 4 KV heads, nor is it a multiple of them, of LlamaForCausalLM:"
            " use 1, 2, 4 or 12",
        ),
        (
            {"num_heads": 7, "num_kv_heads": 1, "intermediate_size": 300},
            Shard(0, 7),
            "tensor_parallel_size 7 does not divide the 300 inner values of the MLP of LlamaForCausalLM: use 1",
        ),
        (
            {"num_layers": 3},
            Shard(0, 1, 0, 5),
            "pipeline_parallel_size 5 is more than the 3 layers of LlamaForCausalLM: use at most 3",
        ),
    ],
)
def test_a_group_that_does_not_fit_is_refused_with_those_that_do(
    fields: dict[str, int], shard: Shard, message: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        local_spec(replace(LLAMA_8B, **fields), shard)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((2, 2, 0, 1), r"tensor_rank must be from 0 to 1 \(tensor_parallel_size is 2\), got 2"),
        ((-1, 2, 0, 1), "tensor_rank must be"),
        ((0, 1, 3, 3), r"stage must be from 0 to 2 \(pipeline_parallel_size is 3\), got 3"),
        ((0, 0, 0, 1), "tensor_parallel_size must be at least 1, got 0"),
        ((0, 1, 0, -2), "pipeline_parallel_size must be at least 1, got -2"),
    ],
)
def test_a_place_outside_the_group_is_refused(place: tuple[int, int, int, int], message: str) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        Shard(*place)


def test_bits_are_those_of_one_rank_where_ranks_have_whole_segments() -> None:
    assert all(has_bits_of_one_rank(LLAMA_8B, size) for size in (1, 2, 4, 8))
    assert not has_bits_of_one_rank(LLAMA_8B, 16)
    assert not has_bits_of_one_rank(replace(LLAMA_8B, intermediate_size=192), 4)
    assert has_bits_of_one_rank(replace(LLAMA_8B, intermediate_size=192), 2)
    assert has_bits_of_one_rank(replace(LLAMA_8B, intermediate_size=100), 1)
