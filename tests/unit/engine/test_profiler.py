"""The latency profile: a grid that respects the limits, and a cache that may be missing, damaged or unwritable."""

import json
import logging

import numpy as np
import pytest

from fastserve.engine.profiler import profile_path, profile_samples, read_profile, write_profile

COEFFICIENTS = [1e-3, 1e-5, 1e-9, 1e-4, 1e-8]


def linear_time(*, prefill_tokens, prefill_ctx, num_decodes, decode_ctx):
    pairs = prefill_tokens * prefill_ctx + prefill_tokens * (prefill_tokens + 1) // 2
    return float(np.dot(COEFFICIENTS, [1, prefill_tokens, pairs, num_decodes, num_decodes * decode_ctx]))


def test_the_samples_describe_the_iterations_that_were_timed():
    samples = profile_samples(
        linear_time, max_model_len=2048, max_tokens=512, max_num_seqs=16, num_blocks=256, block_size=16
    )
    assert samples.shape[1] == 5
    assert samples[:, 2].max() == 16
    assert samples[:, 0].max() == 512
    assert samples[:, 4] == pytest.approx(1e-3 + samples[:, :4] @ np.array(COEFFICIENTS[1:]))


def test_the_grid_stays_inside_small_limits():
    samples = profile_samples(
        linear_time, max_model_len=100, max_tokens=32, max_num_seqs=2, num_blocks=8, block_size=16
    )
    assert samples[:, 0].max() == 32
    assert samples[:, 2].max() == 2
    assert samples[:, 3].max() == 2 * 99
    assert (samples[:, 1] <= 32 * 99).all()


@pytest.mark.parametrize(("max_model_len", "max_num_seqs"), [(2048, 256), (256, 8), (100, 3)])
def test_the_grid_tells_every_coefficient(max_model_len, max_num_seqs):
    samples = profile_samples(
        linear_time,
        max_model_len=max_model_len,
        max_tokens=512,
        max_num_seqs=max_num_seqs,
        num_blocks=1000,
        block_size=16,
    )
    with_base = np.column_stack([np.ones(len(samples)), samples[:, :4]])
    assert np.linalg.matrix_rank(with_base / with_base.max(0)) == 5
    assert len(samples) >= 8


def test_a_single_slot_and_token_still_give_a_grid():
    samples = profile_samples(linear_time, max_model_len=2, max_tokens=1, max_num_seqs=1, num_blocks=1, block_size=8)
    assert len(samples) > 0


def test_a_profile_is_read_back(tmp_path):
    path = tmp_path / "deep" / "profile.json"
    write_profile(path, COEFFICIENTS)
    assert read_profile(path) == COEFFICIENTS


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"coefficients": [1, 2]}', '{"coefficients": [1, 2, 3, 4, -1]}', '{"coefficients": null}']
)
def test_a_damaged_profile_counts_as_none(tmp_path, text):
    path = tmp_path / "profile.json"
    path.write_text(text)
    assert read_profile(path) is None


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path, caplog, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setattr(logging.getLogger("fastserve"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        write_profile(blocked / "profile.json", COEFFICIENTS)
    assert "cannot write" in caplog.text
    assert blocked.read_text() == "not a folder"


def test_the_cache_key_depends_on_the_model_and_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    config = tmp_path / "model" / "config.json"
    config.write_text(json.dumps({"hidden_size": 64}))
    model = str(tmp_path / "model")
    base = profile_path(model, ["float32", "cpu", 2])
    assert base.is_relative_to(tmp_path)
    assert base == profile_path(model, ["float32", "cpu", 2])
    assert len({base, profile_path(model, ["bfloat16", "cpu", 2]), profile_path(model, ["float32", "cpu", 4])}) == 3
    config.write_text(json.dumps({"hidden_size": 128}))
    assert base != profile_path(model, ["float32", "cpu", 2])
