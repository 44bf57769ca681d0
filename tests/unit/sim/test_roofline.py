"""Iteration times from first principles, against numbers worked out by hand and against published latencies."""

from dataclasses import replace

import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.sim import Device, HostLink, ModelShape, Parallelism, Roofline, find_device, find_model

TINY = ModelShape(
    name="tiny",
    num_layers=2,
    hidden_size=8,
    intermediate_size=16,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    vocab_size=10,
    embedding_size=8,
    mlp_matrices=3,
    max_model_len=64,
)
DEVICE = Device(
    name="toy",
    flops_per_s=1e6,
    bytes_per_s=1e5,
    memory_bytes=1e6,
    compute_efficiency=0.5,
    bandwidth_efficiency=0.5,
    layer_overhead_s=1e-3,
    peer_bytes_per_s=1e4,
    peer_latency_s=2e-3,
    hop_bytes_per_s=1e3,
    hop_latency_s=3e-3,
    link=HostLink(offload_bytes_per_s=1.0, upload_bytes_per_s=1.0),
    host_memory_bytes=1e9,
)
LAYER = 8 * (8 + 4 + 4 + 8) + 3 * 8 * 16  # weights of query, key, value, output and the gated MLP
HEAD = 80


def test_sizes_of_a_model_are_those_of_its_matrices():
    assert TINY.layer_weights == LAYER
    assert TINY.weight_bytes == 2 * (2 * LAYER + 2 * HEAD)
    assert replace(TINY, tied_embedding=True).weight_bytes == 2 * (2 * LAYER + HEAD)
    assert TINY.kv_token_bytes == 2 * 2 * 1 * 4 * 2


def test_a_small_decode_takes_the_time_to_read_weights_and_kv():
    seconds = Roofline(TINY, DEVICE).iteration_s(0, 0, 1, 20)
    read_s = 2 * (2 * LAYER + HEAD) / 5e4
    kv_s = 20 * 32 / 5e4
    assert seconds == pytest.approx(read_s + kv_s + 2e-3)


def test_a_long_prefill_takes_the_time_of_its_arithmetic():
    tokens, pairs = 1000, 1000 * 1001 / 2
    seconds = Roofline(TINY, DEVICE).iteration_s(tokens, pairs, 0, 0)
    layers_s = 2 * 2 * LAYER * tokens / 5e5
    attention_s = 4 * 2 * 8 * pairs / 5e5
    assert seconds == pytest.approx(layers_s + 2 * HEAD / 5e4 + attention_s + 2e-3)


def test_tensor_parallelism_divides_the_work_and_adds_messages():
    one = Roofline(TINY, DEVICE).iteration_s(0, 0, 1, 0) - 2e-3
    four = Roofline(TINY, DEVICE, Parallelism(tensor=4)).iteration_s(0, 0, 1, 0)
    message_s = 2 * 0.75 * 8 * 2 / 1e4
    assert four == pytest.approx(one / 4 + 2e-3 + 2 * 2 * (2e-3 + message_s))


def test_a_pipeline_divides_arithmetic_and_kv_but_not_the_reading_of_weights():
    one, two = Roofline(TINY, DEVICE), Roofline(TINY, DEVICE, Parallelism(pipeline=2))
    hop_s = 2 * 3e-3 + 8 * 2 / 1e3 * 0.5  # two hops; a token's activations, for half the tokens of the round
    assert two.iteration_s(0, 0, 1, 0) == pytest.approx(one.iteration_s(0, 0, 1, 0) + hop_s)
    busy = (0, 0, 1000, 1e5)
    hop_s = 2 * 3e-3 + 8 * 2 / 1e3 * 500
    assert two.iteration_s(*busy) - hop_s - 2e-3 == pytest.approx((one.iteration_s(*busy) - 2e-3) / 2)


# Light load, one request at a time: the paper's normalised latency, seconds per token (figures of NSDI '26).
@pytest.mark.parametrize(
    ("model", "tensor", "low", "high"),
    [("opt-13b", 1, 0.024, 0.034), ("opt-66b", 4, 0.040, 0.047), ("opt-175b", 8, 0.055, 0.070)],
)
def test_light_load_on_the_a100_is_as_published(model, tensor, low, high):
    cost = Roofline(find_model(model), find_device("A100-80GB"), Parallelism(tensor=tensor))
    assert low < cost.iteration_s(0, 0, 1, 300) < high


@pytest.mark.parametrize(
    "call", [lambda: find_device("tpu"), lambda: find_model("gpt-5"), lambda: Parallelism(tensor=0)]
)
def test_what_does_not_exist_is_refused_by_name(call):
    with pytest.raises(InvalidArgumentError, match="must be"):
        call()
