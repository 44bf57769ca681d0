"""Fields of config.json that no family reads: those that would change the mathematics are refused by name."""

from collections.abc import Sequence

from fastserve.log import get_logger
from fastserve.models.config_json import ConfigJson

logger = get_logger(__name__)

MAX_NAMED = 12

# Fields by which other families, or forks of ours, compute something else, and the values that ask for nothing. null and
# false always ask for nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
    # scales and caps
    "attention_multiplier": (),
    "attn_logit_softcapping": (0,),
    "attn_scale": (),
    "clip_qkv": (0,),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (0,),
    "logit_scale": (1,),
    "logits_scaling": (1,),
    "lm_head_multiplier": (1,),
    "output_multiplier": (1,),
    "qk_clip": (0,),
    "query_pre_attn_scalar": (),
    "residual_multiplier": (1,),
    "scale_attn_by_inverse_layer_idx": (),
    "scale_attn_weights": (True,),
    "scale_depth": (),
    "scale_emb": (1,),
    "dim_model_base": (),
    "use_mup": (),
    # attention
    "add_cross_attention": (),
    "alibi": (),
    "attention_bias": (),
    "attention_chunk_size": (0,),
    "attention_sinks": (),
    "attn_temperature_tuning": (),
    "is_causal": (True,),
    "kv_lora_rank": (),
    "layer_types": ([],),
    "local_attention": (),
    "parallel_attn": (),
    "qk_layernorm": (),
    "qkv_bias": (),
    "sliding_window_pattern": (),
    "use_bidirectional_attention": (),
    "use_parallel_residual": (),
    "use_qk_norm": (),
    # positions
    "attn_factor": (1,),
    "extrapolation_factor": (1,),
    "long_factor": (),
    "mrope_section": (),
    "no_rope_layer_interval": (0,),
    "no_rope_layers": ([],),
    "position_embedding_type": ("absolute", "rope"),
    "rope_interleave": (),
    "rope_interleaved": (),
    "rope_local_base_freq": (),
    "rope_percentage": (1,),
    "rotary_pct": (1,),
    "short_factor": (),
    "use_mrope": (),
    # experts, norms, weights
    "compression_config": ({},),
    "mlp_bias": (),
    "moe_num_experts": (0,),
    "n_routed_experts": (0,),
    "norm_type": ("rmsnorm", "rms_norm"),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "use_post_norm": (),
}

# What says nothing about how logits are computed. Generation fields are read from generation_config.json only.
_HARMLESS_TEXT = """
architectures auto_map bad_words_ids begin_suppress_tokens bos_token chunk_size_feed_forward classifier_dropout
cross_attention_hidden_size custom_pipelines decoder_start_token_id diversity_penalty do_sample early_stopping
encoder_no_repeat_ngram_size eos_token exponential_decay_length_penalty finetuning_task forced_bos_token_id
forced_eos_token_id gradient_checkpointing id2label init_std initializer_range is_decoder is_encoder_decoder
is_llama_config label2id layerdrop length_penalty max_length max_new_tokens max_sequence_length min_length
model_max_length model_name model_type name_or_path no_repeat_ngram_size num_beam_groups num_beams num_logits_to_keep
num_return_sequences output_attentions output_hidden_states output_scores pad_token parallelize prefix pretraining_tp
problem_type pruned_heads remove_invalid_values repetition_penalty return_dict return_dict_in_generate suppress_tokens
task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_weights_keys tokenizer_class top_k top_p
torchscript transformers_version typical_p unk_token unsloth_fixed unsloth_version use_bfloat16 use_cache
use_flash_attention use_flash_attn use_return_dict
"""
HARMLESS = frozenset(_HARMLESS_TEXT.split())
HARMLESS_ENDINGS = ("_token_id", "_token_ids", "dropout", "_pdrop")


def _asks_for_nothing(name: str, value: object) -> bool:
    if value is False or any(value == neutral for neutral in NEUTRAL[name]):
        return True
    if name == "layer_types":
        return isinstance(value, list) and all(kind == "full_attention" for kind in value)
    if name == "no_rope_layers":  # 1 = this layer has positions
        return isinstance(value, list) and all(flag == 1 for flag in value)
    return False


def _is_harmless(name: str) -> bool:
    return name.startswith("_") or name in HARMLESS or name.endswith(HARMLESS_ENDINGS)


def check_unread_fields(config: ConfigJson) -> None:
    """Look at the fields that the family has not read; call it last.

    A field that is known to change what a model computes is an error unless its value asks for nothing. A field that
    is not known at all is named in a warning: fine-tuning tools leave many of their own.

    Raises:
        CheckpointError: the model needs something that is not supported.
    """
    unknown: list[str] = []
    for section, name in config.unread():
        if name not in NEUTRAL:
            if not _is_harmless(name):
                unknown.append(section.path_of(name))
        elif not _asks_for_nothing(name, section.raw(name)):
            raise section.error(name, "changes what the model computes in a way that is not supported")
    if unknown:
        logger.warning("%s: fields that are not known have no effect: %s", config.path, _listed(unknown))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name)[:80] for name in names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
