"""How many characters of a text one token can stand for at most: a text of more cannot fit a context, whatever it says.

The bound must never refuse a text that would fit, so it exists only for tokenizers of which every step is known to keep
every character: complete byte-level BPE (GPT-2, Llama 3, Qwen) and sentencepiece with complete byte fallback (Llama 2,
Mistral, Gemma). Anything that may drop, strip or merge characters means that there is no bound.
"""

from collections.abc import Iterable, Iterator, Mapping

import tokenizers

from fastserve.tokenizer.token_bytes import BYTE_ALPHABET

Step = Mapping[str, object]

# A canonical decomposition has at most 4 code points, so a composed character stands for at most 4 of the input.
_CHARACTERS_PER_COMPOSED = 4
_KEEPING_NORMALIZERS = {"Prepend", "Lowercase", "NFD", "NFKD", "ByteLevel"}
_COMPOSING_NORMALIZERS = {"NFC", "NFKC"}
_KEEPING_PRE_TOKENIZERS = {"ByteLevel", "Metaspace", "Digits", "UnicodeScripts"}
_SPLITTING_PRE_TOKENIZERS = {"Split", "Punctuation"}


def max_chars_per_token(backend: tokenizers.Tokenizer, description: Mapping[str, object]) -> int | None:
    """Return the most characters of a text that one token can stand for, None when nothing bounds it.

    Args:
        backend: the tokenizer.
        description: its `tokenizer.json`, parsed.
    """
    normalizers = list(_steps(description.get("normalizer"), "normalizers"))
    pre_tokenizers = list(_steps(description.get("pre_tokenizer"), "pretokenizers"))
    added = backend.get_added_tokens_decoder().values()
    if (
        not all(map(_keeps_normalized, normalizers))
        or not all(map(_keeps_split, pre_tokenizers))
        or not _knows_every_byte(backend, description.get("model"), [*normalizers, *pre_tokenizers])
        or any(token.lstrip or token.rstrip for token in added)  # takes any number of spaces with it
    ):
        return None
    longest = max(map(len, [*backend.get_vocab(with_added_tokens=True), *_as_matched(backend, added)]), default=0)
    composing = sum(step.get("type") in _COMPOSING_NORMALIZERS for step in normalizers)
    return longest * _CHARACTERS_PER_COMPOSED**composing or None


def _steps(section: object, children: str) -> Iterator[Step]:
    """The steps of a section of `tokenizer.json`, sequences taken apart."""
    if not isinstance(section, dict):
        return
    if section.get("type") == "Sequence":
        for child in section.get(children) or []:
            yield from _steps(child, children)
    else:
        yield section


def _keeps_normalized(step: Step) -> bool:
    pattern = step.get("pattern")
    if step.get("type") == "Replace" and isinstance(pattern, dict) and isinstance(pattern.get("String"), str):
        return len(str(step.get("content", ""))) >= len(pattern["String"])
    return step.get("type") in _KEEPING_NORMALIZERS | _COMPOSING_NORMALIZERS


def _keeps_split(step: Step) -> bool:
    if step.get("type") in _SPLITTING_PRE_TOKENIZERS:
        return step.get("behavior") in ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
    return step.get("type") in _KEEPING_PRE_TOKENIZERS


def _knows_every_byte(backend: tokenizers.Tokenizer, model: object, steps: Iterable[Step]) -> bool:
    """Whether no character can be unknown: those are dropped, or any number of them become one token."""
    if not isinstance(model, dict) or model.get("type") not in ("BPE", "Unigram"):
        return False
    if any(step.get("type") == "ByteLevel" for step in steps):
        suffixes = (model.get("continuing_subword_prefix"), model.get("end_of_word_suffix"))
        return not any(suffixes) and all(backend.token_to_id(character) is not None for character in BYTE_ALPHABET)
    return bool(model.get("byte_fallback")) and all(
        backend.token_to_id(f"<0x{byte:02X}>") is not None for byte in range(256)
    )


def _as_matched(backend: tokenizers.Tokenizer, added: Iterable[tokenizers.AddedToken]) -> Iterator[str]:
    """Added tokens as they are looked for in the text: some in the normalized one, normalized themselves."""
    for token in added:
        yield token.content
        if token.normalized and backend.normalizer is not None:
            yield backend.normalizer.normalize_str(token.content)
