"""Fields that no family reads: refused where they change what a model computes, else named in a warning."""

import logging

import pytest

from fastserve.errors import CheckpointError
from fastserve.models.unknown_fields import MAX_NAMED, NEUTRAL
from tests.unit.models.published import LLAMA_2_7B, LLAMA_31_8B, MISTRAL_7B, OPT_125M, QWEN3_06B, QWEN25_7B

ALL = (LLAMA_2_7B, LLAMA_31_8B, MISTRAL_7B, OPT_125M, QWEN3_06B, QWEN25_7B)
# Read by this family, so that they are not looked at here.
READ = ("attention_bias", "mlp_bias", "layer_types")


@pytest.mark.parametrize("name", [name for name in NEUTRAL if name not in READ])
@pytest.mark.parametrize("value", [30.0, True, {"factor": 2.0}, [0, 1]], ids=["number", "true", "object", "list"])
def test_what_changes_the_mathematics_is_refused_by_name(read, name: str, value: object) -> None:
    if value in NEUTRAL[name]:
        assert read(LLAMA_2_7B, **{name: value}) == read(LLAMA_2_7B)
        return
    with pytest.raises(CheckpointError, match=rf"config\.json: {name} changes what the model computes"):
        read(LLAMA_2_7B, **{name: value})


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_asks_for_nothing_is_accepted(read, caplog: pytest.LogCaptureFixture, name: str) -> None:
    for value in (None, False, *NEUTRAL[name]):
        if name != "layer_types" or value is not False:
            assert read(OPT_125M, **{name: value}) == read(OPT_125M)
    assert caplog.text == ""


def test_layers_that_are_all_of_the_usual_kind_are_accepted(read) -> None:
    usual = {"layer_types": ["full_attention"] * 32, "no_rope_layers": [1] * 32}
    assert read(LLAMA_2_7B, **usual) == read(LLAMA_2_7B)
    for name, odd in (("layer_types", "chunked_attention"), ("no_rope_layers", 0)):
        with pytest.raises(CheckpointError, match=name):
            read(LLAMA_2_7B, **{name: [*usual[name][1:], odd]})


@pytest.mark.parametrize("config", [MISTRAL_7B, QWEN25_7B, QWEN3_06B], ids=lambda c: c["architectures"][0])
def test_a_family_with_windows_refuses_layers_of_other_kinds(read, config: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="layer_types must name full_attention and sliding_attention only"):
        read(config, layer_types=["linear_attention"])


@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
def test_rotary_parameters_per_layer_type_are_refused(read, name: str) -> None:
    nested = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    with pytest.raises(CheckpointError, match=rf"{name}\.full_attention is not supported.*same in all layers"):
        read(LLAMA_2_7B, **{name: nested})


def test_a_rotary_field_that_is_not_known_is_looked_at_as_well(read) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    with pytest.raises(CheckpointError, match=r"rope_scaling\.attn_factor changes"):
        read(LLAMA_2_7B, rope_scaling=yarn | {"attn_factor": 2.0})
    assert read(LLAMA_2_7B, rope_scaling=yarn | {"attn_factor": 1.0, "type": "yarn"}) == read(
        LLAMA_2_7B, rope_scaling=yarn
    )


@pytest.mark.parametrize("config", ALL, ids=lambda c: f"{c['architectures'][0]} {c['vocab_size']}")
def test_published_configurations_give_no_warning(read, caplog: pytest.LogCaptureFixture, config) -> None:
    usual = {"_name_or_path": "x", "model_type": "y", "use_cache": True, "transformers_version": "4.51.0"}
    read(config, **usual, initializer_range=0.02, attention_dropout=0.1, bos_token_id=1, auto_map={}, dropout=0.1)
    assert caplog.text == ""


def test_fields_of_unknown_meaning_are_named_once(read, caplog: pytest.LogCaptureFixture) -> None:
    odd = {f"field\n{i}": i for i in range(MAX_NAMED + 3)}
    with caplog.at_level(logging.WARNING):
        read(LLAMA_2_7B, **odd)
    assert len(caplog.records) == 1
    assert r"have no effect: 'field\n0', 'field\n1'" in caplog.text
    assert caplog.text.rstrip().endswith("and 3 more")
