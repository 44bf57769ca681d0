"""Valid spellings that other tools write, and defaults for fields that config.json does not mention."""

import pytest

from tests.unit.models.published import LLAMA_2_7B, MISTRAL_7B, QWEN3_06B, QWEN25_7B


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("torch.bfloat16", "bfloat16"),
        ("bfloat16", "bfloat16"),
        ("half", "float16"),
        ("float", "float32"),
        (None, None),
    ],
)
@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_stored_types(read, name: str, written: str | None, meant: str | None) -> None:
    assert read(LLAMA_2_7B, **({"torch_dtype": None} | {name: written})).stored_dtype == meant


def test_swish_is_silu(read) -> None:
    assert read(LLAMA_2_7B, hidden_act="swish") == read(LLAMA_2_7B, hidden_act="silu")


@pytest.mark.parametrize("name", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("nothing", [None, {}])
def test_an_empty_quantisation_is_none(read, name: str, nothing: object) -> None:
    assert read(LLAMA_2_7B, **{name: nothing}) == read(LLAMA_2_7B)


def test_from_layer_0_on_all_layers_of_qwen_slide(read) -> None:
    assert read(QWEN25_7B, use_sliding_window=True, max_window_layers=0).sliding_window == 131072


@pytest.mark.parametrize("config", [LLAMA_2_7B, MISTRAL_7B, QWEN25_7B, QWEN3_06B], ids=lambda c: c["architectures"][0])
def test_the_base_class_is_the_same_decoder(read, config: dict[str, object]) -> None:
    spec = read(config)
    base = config["architectures"][0].replace("ForCausalLM", "Model")
    assert read(config, architectures=[base]).num_layers == spec.num_layers


def without(config: dict[str, object], *names: str) -> dict[str, object]:
    return {name: value for name, value in config.items() if name not in names}


def test_mistral_has_8_kv_heads_and_a_window_where_the_fields_are_absent(read) -> None:
    spec = read(without(MISTRAL_7B, "num_key_value_heads", "sliding_window"), num_attention_heads=16)
    assert (spec.num_kv_heads, spec.sliding_window) == (8, 4096)
    spec = read(MISTRAL_7B, num_key_value_heads=None, sliding_window=None)
    assert (spec.num_kv_heads, spec.sliding_window) == (32, None)


def test_qwen_has_32_kv_heads_where_the_field_is_absent(read) -> None:
    assert read(without(QWEN25_7B, "num_key_value_heads"), num_attention_heads=64).num_kv_heads == 32
    assert read(QWEN25_7B, num_key_value_heads=None).num_kv_heads == 28
