"""config.json -> DecoderSpec, on the fields of published checkpoints, and every refusal."""

import json
from pathlib import Path

import pytest

from fastserve.errors import CheckpointError
from fastserve.layers.rope_spec import LinearScaling, Llama3Scaling, RopeSpec, YarnScaling
from fastserve.models.registry import ARCHITECTURES, read_spec
from tests.unit.models.published import LLAMA_2_7B, LLAMA_31_8B, MISTRAL_7B, OPT_125M, QWEN3_06B, QWEN25_7B


def test_llama_2(read) -> None:
    spec = read(LLAMA_2_7B)
    assert (spec.num_layers, spec.num_heads, spec.num_kv_heads, spec.head_dim) == (32, 32, 32, 128)
    assert (spec.hidden_size, spec.embedding_size, spec.intermediate_size) == (4096, 4096, 11008)
    assert (spec.vocab_size, spec.max_position, spec.norm, spec.norm_eps) == (32000, 4096, "rms", 1e-5)
    assert spec.rope == RopeSpec(theta=10000.0, rotary_dim=128, scaling=None)
    assert (spec.gated, spec.activation, spec.pre_norm) == (True, "silu", True)
    assert not (spec.qkv_bias or spec.attention_out_bias or spec.mlp_bias or spec.qk_norm or spec.tie_word_embeddings)
    assert (spec.stored_dtype, spec.eos_token_ids) == ("float16", (2,))


def test_llama_31_scales_its_rotary_frequencies(read) -> None:
    spec = read(LLAMA_31_8B)
    assert spec.rope == RopeSpec(500000.0, 128, Llama3Scaling(8.0, 1.0, 4.0, 8192))
    assert (spec.stored_dtype, spec.eos_token_ids) == ("bfloat16", (128001, 128008, 128009))
    assert (spec.query_size, spec.kv_size) == (4096, 1024)


def test_rope_parameters_of_transformers_5_mean_the_same(read) -> None:
    old = read(LLAMA_31_8B)
    parameters = LLAMA_31_8B["rope_scaling"] | {"rope_theta": 500000.0}
    new = LLAMA_31_8B | {"rope_parameters": parameters, "dtype": "bfloat16"}
    for name in ("rope_scaling", "rope_theta", "torch_dtype"):
        del new[name]
    assert read(new) == old


def test_mistral_has_a_window_on_all_layers(read) -> None:
    assert read(MISTRAL_7B).sliding_window == 4096
    assert read(MISTRAL_7B, sliding_window=None).sliding_window is None


def test_qwen2_has_biases_on_query_key_and_value_only(read) -> None:
    spec = read(QWEN25_7B)
    assert (spec.qkv_bias, spec.attention_out_bias, spec.mlp_bias) == (True, False, False)
    assert (spec.head_dim, spec.num_kv_heads, spec.sliding_window) == (128, 4, None)


def test_qwen_windows_count_only_when_a_layer_slides(read) -> None:
    assert read(QWEN25_7B, use_sliding_window=True).sliding_window is None
    assert read(QWEN25_7B, use_sliding_window=True, max_window_layers=27).sliding_window == 131072
    layer_types = ["full_attention", "sliding_attention"] * 14
    assert read(QWEN25_7B, use_sliding_window=True, layer_types=layer_types).sliding_window == 131072
    assert read(QWEN25_7B, layer_types=["full_attention"] * 28).sliding_window is None


def test_qwen3_normalises_heads_of_their_own_size(read) -> None:
    spec = read(QWEN3_06B)
    assert (spec.qk_norm, spec.qkv_bias, spec.tie_word_embeddings) == (True, False, True)
    assert (spec.head_dim, spec.query_size, spec.hidden_size) == (128, 2048, 1024)


def test_opt(read) -> None:
    spec = read(OPT_125M)
    assert (spec.norm, spec.norm_eps, spec.pre_norm, spec.gated, spec.activation) == (
        "layer",
        1e-5,
        True,
        False,
        "relu",
    )
    assert (spec.rope, spec.position_offset, spec.max_position) == (None, 2, 2048)
    assert spec.qkv_bias and spec.attention_out_bias and spec.mlp_bias and spec.tie_word_embeddings
    assert (spec.num_kv_heads, spec.head_dim, spec.embedding_size) == (12, 64, 768)


def test_opt_350m_has_norms_behind_and_a_narrow_embedding(read) -> None:
    spec = read(OPT_125M, hidden_size=1024, word_embed_proj_dim=512, do_layer_norm_before=False, num_attention_heads=16)
    assert (spec.pre_norm, spec.hidden_size, spec.embedding_size) == (False, 1024, 512)


def test_end_tokens_are_those_of_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_2_7B))
    generation = tmp_path / "generation_config.json"
    generation.write_text('{"eos_token_id": [7, 2, 8]}')
    assert read_spec(tmp_path).eos_token_ids == (7, 2, 8)
    generation.write_text('{"eos_token_id": 7}')
    assert read_spec(tmp_path).eos_token_ids == (7, 2)
    generation.write_text('{"temperature": 0.6}')
    assert read_spec(tmp_path).eos_token_ids == (2,)


@pytest.mark.parametrize("none", [None, -1, [], [32000]], ids=["null", "-1", "empty", "outside the vocabulary"])
def test_end_tokens_that_are_none_are_left_out(read, none: object) -> None:
    assert read(LLAMA_2_7B, eos_token_id=none).eos_token_ids == ()


def test_absent_fields_have_the_defaults_of_the_family(read) -> None:
    fields = {
        name: value
        for name, value in LLAMA_2_7B.items()
        if name not in ("num_key_value_heads", "rms_norm_eps", "hidden_act", "tie_word_embeddings", "torch_dtype")
    }
    spec = read(fields)
    assert (spec.num_kv_heads, spec.norm_eps, spec.activation) == (32, 1e-6, "silu")
    assert (spec.tie_word_embeddings, spec.stored_dtype) == (False, None)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def test_yarn_fields_have_the_defaults_of_the_paper(read) -> None:
    scaling = read(QWEN25_7B, rope_scaling=YARN).rope.scaling
    assert scaling == YarnScaling(4.0, 32.0, 1.0, pytest.approx(1.1386294), 32768, True)


def test_yarn_attention_factor_may_be_given_or_follow_mscale(read) -> None:
    def factor(**more: object) -> float:
        return read(QWEN25_7B, rope_scaling=YARN | more).rope.scaling.attention_factor

    assert factor(attention_factor=0.5) == 0.5
    assert factor(mscale=1.0, mscale_all_dim=1.0) == 1.0
    assert factor(mscale=0, mscale_all_dim=0) == pytest.approx(1.1386294)


def test_the_old_name_of_the_scaling_type_is_read(read) -> None:
    assert read(LLAMA_2_7B, rope_scaling={"type": "linear", "factor": 2.0}).rope.scaling == LinearScaling(2.0)


def test_part_of_a_head_may_rotate(read) -> None:
    assert read(LLAMA_2_7B, partial_rotary_factor=0.25).rope.rotary_dim == 32


REFUSED = {
    "architecture": (
        {"architectures": ["MixtralForCausalLM"]},
        ["architectures", "MixtralForCausalLM", *ARCHITECTURES],
    ),
    "no architecture": ({"architectures": None}, ["architectures", "it is absent"]),
    "two architectures": ({"architectures": ["LlamaForCausalLM", "OPTForCausalLM"]}, ["architectures"]),
    "architecture of another type": ({"architectures": "LlamaForCausalLM"}, ["must be a list of strings"]),
    "quantisation": ({"quantization_config": {"bits": 4}}, ["quantization_config", "unquantised"]),
    "missing size": ({"hidden_size": None}, ["hidden_size", "it is absent"]),
    "zero layers": ({"num_hidden_layers": 0}, ["num_hidden_layers", "at least 1", "found 0"]),
    "negative size": ({"intermediate_size": -1}, ["intermediate_size", "found -1"]),
    "boolean size": ({"vocab_size": True}, ["vocab_size", "found True"]),
    "fractional size": ({"vocab_size": 3.5}, ["vocab_size", "found 3.5"]),
    "endless size": ({"vocab_size": 2**31}, ["vocab_size"]),
    "kv heads that do not divide": ({"num_key_value_heads": 5}, ["num_key_value_heads", "divide", "32", "found 5"]),
    "heads that do not divide": (
        {"num_attention_heads": 31, "num_key_value_heads": 31},
        ["num_attention_heads", "4096"],
    ),
    "head_dim": ({"head_dim": 20}, ["multiple of 8 between 32 and 256", "found 20"]),
    "activation": ({"hidden_act": "swiglu"}, ["hidden_act", "silu", "gelu", "found 'swiglu'"]),
    "dtype": ({"torch_dtype": "float64"}, ["torch_dtype", "bfloat16", "found 'float64'"]),
    "negative eps": ({"rms_norm_eps": -1e-5}, ["rms_norm_eps", "positive"]),
    "theta": ({"rope_theta": "many"}, ["rope_theta", "positive number", "found 'many'"]),
    "dynamic scaling": (
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        ["rope_scaling.rope_type", "linear", "llama3", "yarn", "found 'dynamic'"],
    ),
    "scaling without factor": ({"rope_scaling": {"type": "linear"}}, ["rope_scaling.factor", "it is absent"]),
    "scaling that is no object": ({"rope_scaling": [8.0]}, ["rope_scaling", "object"]),
    "llama3 factors the wrong way round": (
        {"rope_scaling": LLAMA_31_8B["rope_scaling"] | {"high_freq_factor": 0.5}},
        ["rope_scaling.high_freq_factor", "above low_freq_factor (1.0)", "found 0.5"],
    ),
    "rotary share": ({"partial_rotary_factor": 2.0}, ["partial_rotary_factor", "128"]),
    "odd rotary share": ({"partial_rotary_factor": 0.0079}, ["partial_rotary_factor"]),
    "end token": ({"eos_token_id": "</s>"}, ["eos_token_id", "found '</s>'"]),
    "tied as text": ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "true or false"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_by_field_and_value(tmp_path: Path, read, case: str) -> None:
    changes, parts = REFUSED[case]
    with pytest.raises(CheckpointError) as caught:
        read(LLAMA_2_7B, **changes)
    for part in (str(tmp_path / "config.json"), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize("changes", [{"layer_norm_elementwise_affine": False}, {"_remove_final_layer_norm": True}])
def test_opt_variants_without_norms_are_refused(read, changes: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        read(OPT_125M, **changes)


def test_a_missing_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        read_spec(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a": ', "[" * 100_000, "\x00"], ids=["empty", "list", "half", "deep", "null"]
)
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_spec(tmp_path)
