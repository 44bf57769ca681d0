"""Fields of OpenAI's and vLLM's APIs that are not supported, and the values that mean "not used"."""

from collections.abc import Mapping

from fastserve.server.errors import bad_request

_EMPTY: tuple[object, ...] = ([], {})
ANY = object()  # accepted whatever the value: a label, or a wish that vLLM ignores as well

_COMMON: dict[str, tuple[object, ...]] = {
    "user": (ANY,),
    "metadata": (ANY,),
    "safety_identifier": (ANY,),
    "prompt_cache_key": (ANY,),
    "store": (ANY,),
    "service_tier": (ANY,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "spaces_between_special_tokens": (True,),
}

# vLLM's earlier names, and what they are called today.
_RENAMED = {
    "guided_json": "structured_outputs.json",
    "guided_regex": "structured_outputs.regex",
    "guided_choice": "structured_outputs.choice",
    "guided_grammar": "structured_outputs.grammar",
}

_COMMON |= dict.fromkeys(_RENAMED, ())

COMPLETION_NOOP_VALUES = _COMMON | {"best_of": (ANY,), "suffix": ("",)}

CHAT_NOOP_VALUES = _COMMON | {
    "functions": _EMPTY,
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "verbosity": (ANY,),
    "web_search_options": (),
    "chat_template": (),
}

# What clients keep with the turns that a server sent them; no chat template knows it.
MESSAGE_NOOP_VALUES: dict[str, tuple[object, ...]] = {
    "refusal": (ANY,),
    "annotations": (ANY,),
    "cache_control": (ANY,),
    "provider_specific_fields": (ANY,),
    "reasoning_details": (ANY,),
    "thinking_blocks": (ANY,),
    "audio": (),
    "images": _EMPTY,
}


def drop_noop_fields(
    body: Mapping[str, object], noop_values: Mapping[str, tuple[object, ...]], where: str = ""
) -> dict[str, object]:
    """Return the body without the fields of `noop_values`; a null means "not used" in any field and is dropped.

    Raises:
        ApiError: 400 that names a field of `noop_values` whose value asks for something.
    """
    kept = {}
    for name, value in body.items():
        if value is None:
            continue
        if name not in noop_values:
            kept[name] = value
        elif not _is_noop(value, noop_values[name]):
            remedy = f"use {_RENAMED[name]}" if name in _RENAMED else "leave it out"
            raise bad_request(f"{where}{name} is not supported; {remedy}", param=where + name, code="unsupported")
    return kept


def _is_noop(value: object, accepted: tuple[object, ...]) -> bool:
    return any(
        item is ANY or ((type(item) is type(value) or _is_number(item, value)) and item == value) for item in accepted
    )


def _is_number(*values: object) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
