"""The model argument turned into a decoder."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from fastserve.config import ModelConfig
from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.loader import LoadedModel, load_model
from tests.checkpoints import EOS_ID, FAMILIES, MAX_POSITION, PAD_ID, copy_checkpoint, edit_config, tiny_checkpoint
from tests.paged import all_logits

TOKENS = [5, 17, 300, 41]


def load(folder: Path, **fields: object) -> LoadedModel:
    return load_model(ModelConfig(model=str(folder), **fields))


def edit_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    """Set tensors (`__` for a dot) of the single weight file; None removes one."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    for name, tensor in changes.items():
        tensors[name.replace("__", ".")] = tensor
    kept = {name: tensor.clone() for name, tensor in tensors.items() if tensor is not None}
    safetensors.torch.save_file(kept, path)


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return copy_checkpoint(tiny_checkpoint("llama"), tmp_path / "llama")


def test_a_loaded_model_says_what_it_is() -> None:
    folder = tiny_checkpoint("llama")
    model = load(folder)
    assert (model.folder, model.max_model_len, model.dtype) == (folder, MAX_POSITION, torch.float32)
    assert model.eos_token_ids == model.spec.eos_token_ids == (EOS_ID, PAD_ID)


def test_weights_are_converted_to_the_wanted_type() -> None:
    expected = all_logits(load(tiny_checkpoint("llama")).decoder, TOKENS)
    for name, tolerance in (("bfloat16", 0.2), ("float16", 0.02)):
        model = load(tiny_checkpoint("llama"), dtype=name)
        assert model.dtype == getattr(torch, name) == model.decoder.dtype
        torch.testing.assert_close(all_logits(model.decoder, TOKENS), expected, atol=tolerance, rtol=tolerance)


def test_a_shorter_context_may_be_asked_for_and_a_longer_one_not() -> None:
    assert load(tiny_checkpoint("opt"), max_model_len=100).max_model_len == 100
    with pytest.raises(InvalidArgumentError, match=f"at most {MAX_POSITION} tokens"):
        load(tiny_checkpoint("opt"), max_model_len=MAX_POSITION + 1)


def test_a_sliding_window_limits_the_context() -> None:
    assert load(tiny_checkpoint("mistral", sliding_window=64)).max_model_len == 64


def test_progress_reports_every_tensor_and_all_bytes() -> None:
    calls: list[tuple[str, int, int]] = []
    folder = tiny_checkpoint("llama")
    load_model(ModelConfig(model=str(folder)), progress=lambda *call: calls.append(call))
    names = [name for name, _, _ in calls]
    assert len(set(names)) == len(names) == 3 + 3 * 9
    assert calls[-1][1] == calls[-1][2] < (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize("family", FAMILIES)
def test_dummy_weights_need_config_json_only(tmp_path: Path, family: str) -> None:
    (tmp_path / "config.json").write_bytes((tiny_checkpoint(family) / "config.json").read_bytes())
    first, again, other = (
        all_logits(load(tmp_path, load_format="dummy", seed=seed).decoder, TOKENS) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert 0.1 < first.std().item() < 10.0


def test_a_missing_tensor_is_named(llama: Path) -> None:
    edit_weights(llama, model__layers__1__self_attn__k_proj__weight=None)
    with pytest.raises(
        CheckpointError, match=r"lacks the tensor model\.layers\.1\.self_attn\.k_proj\.weight \(64, 128\)"
    ):
        load(llama)


def test_a_tensor_of_another_shape_is_named(llama: Path) -> None:
    edit_weights(llama, model__norm__weight=torch.ones(64))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight must have the shape \(128,\).*found \(64,\)"):
        load(llama)


def test_a_config_of_a_smaller_model_is_noticed_by_the_tensors_left_over(llama: Path) -> None:
    edit_config(llama, num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=r"no place for: model\.layers\.2\."):
        load(llama)


def test_stored_rotary_frequencies_are_ignored(llama: Path) -> None:
    edit_weights(llama, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(16))
    calls: list[tuple[str, int, int]] = []
    load_model(ModelConfig(model=str(llama)), progress=lambda *call: calls.append(call))
    assert calls[-1][1] == calls[-1][2]


def test_a_tied_model_may_store_its_output_projection_or_not(tmp_path: Path) -> None:
    folder = copy_checkpoint(tiny_checkpoint("qwen2"), tmp_path / "qwen2")
    expected = all_logits(load(folder).decoder, TOKENS)
    edit_weights(folder, lm_head__weight=torch.zeros(512, 128))
    assert torch.equal(all_logits(load(folder).decoder, TOKENS), expected)


def test_an_untied_model_needs_its_output_projection(llama: Path) -> None:
    edit_weights(llama, lm_head__weight=None)
    with pytest.raises(CheckpointError, match=r"lacks the tensor lm_head\.weight"):
        load(llama)


def test_opt_is_found_without_the_outer_prefix(tmp_path: Path) -> None:
    folder = copy_checkpoint(tiny_checkpoint("opt"), tmp_path / "opt")
    expected = all_logits(load(folder).decoder, TOKENS)
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name.removeprefix("model."): tensor for name, tensor in tensors.items()}, path)
    assert torch.equal(all_logits(load(folder).decoder, TOKENS), expected)
