"""Named models and devices, models from a config.json, measured profiles, and the memory they leave for KV."""

import json
from dataclasses import replace

import pytest

from fastserve.config import CacheConfig
from fastserve.errors import InvalidArgumentError
from fastserve.sim import (
    MODELS,
    Parallelism,
    Profile,
    find_model,
    profile_deployment,
    read_profile_file,
    roofline_deployment,
)
from tests.checkpoints import tiny_checkpoint

PROFILE = Profile(
    model="/models/tiny",
    dtype="float32",
    device="cpu",
    num_threads=2,
    max_model_len=512,
    vocab_size=100,
    block_size=16,
    block_bytes=4096,
    num_device_blocks=64,
    num_host_blocks=128,
    coefficients=(1e-3, 1e-5, 1e-9, 1e-4, 1e-8),
    latency_coefficients=(9e-4, 1e-5, 1e-9, 9e-5, 1e-8),
    offload_bytes_per_s=1e9,
    upload_bytes_per_s=2e9,
    duplex_share=0.6,
    fastserve="0.1.0",
)


# Parameters of the published models, billions; without norms and biases.
@pytest.mark.parametrize(
    ("name", "billions"),
    [("opt-13b", 12.85), ("opt-66b", 65.7), ("opt-175b", 174.6), ("llama-3-8b", 8.03), ("llama-3-70b", 70.6),
     ("qwen3-0.6b", 0.596), ("qwen3-8b", 8.19), ("qwen3-32b", 32.8)],
)  # fmt: skip
def test_a_named_model_has_its_published_size(name, billions):
    shape = find_model(name)
    assert shape.weight_bytes / shape.element_bytes / 1e9 == pytest.approx(billions, rel=0.01)


def test_every_named_model_is_found_in_any_case():
    assert {find_model(name.upper()).name for name in MODELS} == set(MODELS)


@pytest.mark.parametrize("family", ["opt", "llama", "qwen3"])
def test_a_model_is_read_from_its_config_json(family):
    folder = tiny_checkpoint(family)
    shape = find_model(str(folder))
    config = json.loads((folder / "config.json").read_text())
    assert shape == find_model(str(folder / "config.json"))
    assert shape.num_layers == config["num_hidden_layers"]
    assert shape.mlp_matrices == (2 if family == "opt" else 3)
    assert find_model(str(folder), "float32").kv_token_bytes == 2 * find_model(str(folder), "float16").kv_token_bytes


def test_kv_gets_what_the_weights_leave():
    deployment = roofline_deployment("opt-13b", "a100-80gb", cache=CacheConfig(host_kv_gib=40))
    shape = find_model("opt-13b")
    used = deployment.pools.num_device_blocks * deployment.pools.block_bytes + shape.weight_bytes
    assert used == pytest.approx(0.9 * 80 * 2**30, rel=1e-3)
    assert deployment.pools.block_bytes == 16 * 2 * 40 * 5120 * 2
    assert deployment.pools.num_host_blocks == 40 * 2**30 // deployment.pools.block_bytes


def test_overrides_and_more_devices_change_the_pools():
    cache = CacheConfig(num_gpu_blocks_override=300, num_host_blocks_override=7)
    pools = roofline_deployment("opt-13b", "h100", cache=cache).pools
    assert (pools.num_device_blocks, pools.num_host_blocks) == (300, 7)
    two = roofline_deployment("opt-13b", "h100", parallelism=Parallelism(tensor=2))
    assert two.pools.num_device_blocks > 2 * roofline_deployment("opt-13b", "h100").pools.num_device_blocks


@pytest.mark.parametrize(("model", "limit"), [("opt-66b", None), ("opt-13b", 4096)])
def test_what_does_not_fit_is_refused(model, limit):
    with pytest.raises(InvalidArgumentError, match="max_model_len"):
        roofline_deployment(model, "a100-80gb", max_model_len=limit)


def test_a_profile_is_read_back_and_gives_its_costs(tmp_path):
    PROFILE.write(tmp_path / "p.json")
    assert read_profile_file(tmp_path / "p.json") == PROFILE
    deployment = profile_deployment(tmp_path / "p.json")
    assert deployment.cost.iteration_s(10, 55, 2, 300) == pytest.approx(1e-3 + 1e-4 + 55e-9 + 2e-4 + 3e-6)
    assert (deployment.pools.num_device_blocks, deployment.pools.num_host_blocks) == (64, 128)
    assert (deployment.max_model_len, deployment.link.duplex_share) == (512, 0.6)


def test_flags_replace_the_pools_of_a_profile():
    cache = CacheConfig(num_gpu_blocks_override=40, num_host_blocks_override=0)
    pools = profile_deployment(PROFILE, cache=cache, max_model_len=100).pools
    assert (pools.num_device_blocks, pools.num_host_blocks) == (40, 0)
    assert profile_deployment(PROFILE, cache=CacheConfig(host_kv_gib=1)).pools.num_host_blocks == 2**30 // 4096
    with pytest.raises(InvalidArgumentError, match="512"):
        profile_deployment(PROFILE, max_model_len=513)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "fastserve-profile-2"}', replace(PROFILE, coefficients=(-1,) * 5).to_json()]
)
def test_a_file_that_is_no_profile_is_refused(tmp_path, text):
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(InvalidArgumentError, match="profile"):
        read_profile_file(path)
