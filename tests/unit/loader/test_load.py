"""The model argument turned into a decoder."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from fastserve.config import ModelConfig
from fastserve.errors import CheckpointError, InvalidArgumentError
from fastserve.loader import load as load_module
from fastserve.loader.checkpoint import CheckpointWeights
from fastserve.loader.load import LoadedModel, load_model
from fastserve.models.build import build_decoder
from fastserve.models.registry import read_spec
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
    embedding = safetensors.torch.load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    edit_weights(folder, lm_head__weight=embedding)
    assert torch.equal(all_logits(load(folder).decoder, TOKENS), expected)


@pytest.mark.parametrize("family", ["qwen2", "opt"])
def test_an_output_projection_that_differs_from_the_embedding_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, family: str
) -> None:
    folder = copy_checkpoint(tiny_checkpoint(family), tmp_path / family)
    head = torch.randn(512, 128, generator=torch.Generator().manual_seed(3))
    edit_weights(folder, lm_head__weight=head)
    tied = all_logits(load(folder).decoder, TOKENS)
    assert "lm_head.weight differs from the embedding" in caplog.text
    edit_config(folder, tie_word_embeddings=False)
    assert torch.equal(tied, all_logits(load(folder).decoder, TOKENS))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_a_checkpoint_saved_from_the_base_model_has_no_prefix(tmp_path: Path, family: str) -> None:
    folder = copy_checkpoint(tiny_checkpoint(family), tmp_path / family)
    expected = all_logits(load(folder).decoder, TOKENS)
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({name.removeprefix("model."): tensor for name, tensor in tensors.items()}, path)
    assert torch.equal(all_logits(load(folder).decoder, TOKENS), expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_type_is_that_of_the_weights_where_config_names_none(tmp_path: Path, dtype: str) -> None:
    folder = copy_checkpoint(tiny_checkpoint("llama", dtype=dtype), tmp_path / "llama")
    edit_config(folder, dtype=None, torch_dtype=None)
    assert load(folder).dtype == getattr(torch, dtype)
    assert load(folder, load_format="dummy").dtype == torch.float32
    assert load(folder, dtype="float32").dtype == torch.float32


HUGE = 2**31 - 1
HUGE_FIELDS = ("hidden_size", "intermediate_size", "vocab_size", "num_hidden_layers", "max_position_embeddings")


@pytest.mark.parametrize("load_format", ["safetensors", "dummy"])
@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("field", HUGE_FIELDS)
def test_huge_sizes_are_refused_before_memory_is_taken(
    tmp_path: Path, family: str, field: str, load_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy_checkpoint(tiny_checkpoint(family), tmp_path / family)
    changes = {"ffn_dim" if (family, field) == ("opt", "intermediate_size") else field: HUGE}
    if field == "hidden_size":
        changes |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 64}
        if family == "opt":  # its heads would be huge as well, which is refused before
            changes = {"word_embed_proj_dim": HUGE}
    edit_config(folder, **changes)
    monkeypatch.setattr(load_module, "build_decoder", lambda *_, **__: pytest.fail("tensors are made"))
    with pytest.raises(
        CheckpointError, match=r"config.json asks for [\d.]+ GiB of weights.*GiB of memory are available"
    ):
        load(folder, load_format=load_format)


def test_a_shape_that_the_file_does_not_have_is_refused_before_memory_is_taken(llama: Path) -> None:
    edit_config(llama, intermediate_size=HUGE)
    spec = read_spec(llama)
    with CheckpointWeights(llama) as weights, pytest.raises(CheckpointError, match="must have the shape"):
        build_decoder(spec, weights, max_model_len=8, dtype=torch.float32, device=torch.device("cpu"))
    edit_config(llama, intermediate_size=192, vocab_size=HUGE)
    spec = read_spec(llama)
    with CheckpointWeights(llama) as weights, pytest.raises(CheckpointError, match="must have the shape"):
        build_decoder(spec, weights, max_model_len=8, dtype=torch.float32, device=torch.device("cpu"))


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
