"""Rotary fields of config.json: `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""

from fastserve.layers.rope_spec import (
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    RopeSpec,
    YarnScaling,
    yarn_attention_factor,
)
from fastserve.models.config_json import ConfigJson

SUPPORTED_TYPES = ("default", "linear", "llama3", "yarn")


def _original_max_position(config: ConfigJson, section: ConfigJson) -> int:
    name = "original_max_position_embeddings"
    if name in config:
        return config.size(name)
    return section.size(name, config.size("max_position_embeddings"))


def _yarn(config: ConfigJson, section: ConfigJson) -> YarnScaling:
    original = _original_max_position(config, section)
    factor = section.number("factor", config.size("max_position_embeddings") / original)
    attention_factor = yarn_attention_factor(factor)
    if section.raw("mscale") and section.raw("mscale_all_dim"):
        above = yarn_attention_factor(factor, section.number("mscale"))
        attention_factor = above / yarn_attention_factor(factor, section.number("mscale_all_dim"))
    return YarnScaling(
        factor=factor,
        beta_fast=section.number("beta_fast", 32.0),
        beta_slow=section.number("beta_slow", 1.0),
        attention_factor=section.number("attention_factor", attention_factor),
        original_max_position=original,
        truncate=section.flag("truncate", True),
    )


def _llama3(config: ConfigJson, section: ConfigJson) -> Llama3Scaling:
    scaling = Llama3Scaling(
        factor=section.number("factor"),
        low_freq_factor=section.number("low_freq_factor"),
        high_freq_factor=section.number("high_freq_factor"),
        original_max_position=_original_max_position(config, section),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise section.error("high_freq_factor", f"must be above low_freq_factor ({scaling.low_freq_factor})")
    return scaling


def _scaling(config: ConfigJson, section: ConfigJson) -> RopeScaling | None:
    field = "rope_type" if "rope_type" in section else "type"
    section.skip("type")
    match section.text(field, "default"):
        case "default":
            return None
        case "linear":
            return LinearScaling(section.number("factor"))
        case "llama3":
            return _llama3(config, section)
        case "yarn":
            return _yarn(config, section)
        case _:
            supported = ", ".join(SUPPORTED_TYPES)
            raise section.error(field, f"is not a supported rotary scaling (supported: {supported})")


def read_rope(config: ConfigJson, head_dim: int, default_theta: float = 10_000.0) -> RopeSpec:
    """The rotary embedding that config.json describes.

    Raises:
        CheckpointError: the scaling is not supported, or a field is missing or out of range.
    """
    section = config.section("rope_parameters") or config.section("rope_scaling")
    theta = config.number("rope_theta", default_theta)
    share = config.number("partial_rotary_factor", 1.0)
    if section is not None:
        for name in section.sections():
            raise section.error(name, "is not supported: the rotary embedding must be the same in all layers")
        theta = section.number("rope_theta", theta)
        share = section.number("partial_rotary_factor", share)
    rotary_dim = int(head_dim * share)
    if not 2 <= rotary_dim <= head_dim or rotary_dim % 2 != 0:
        raise config.error("partial_rotary_factor", f"times head_dim ({head_dim}) must be even and at most head_dim")
    return RopeSpec(theta, rotary_dim, _scaling(config, section) if section is not None else None)
