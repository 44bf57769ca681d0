"""The bytes that each token id stands for, where a tokenizer's decoder lets text be the concatenation of them.

Two families qualify, and nearly all language models are in one of them: byte-level BPE (GPT-2, Llama 3, Qwen) and
sentencepiece BPE with byte fallback (Llama 2, Mistral, Gemma). For these, text can be produced a token at a time in
constant time and without ever decoding a token twice.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class DecodeRule:
    """How token strings become bytes.

    Attributes:
        byte_level: token strings spell bytes in GPT-2's printable alphabet.
        replacements: (from, to) applied to token strings, in order; sentencepiece's `▁` to a space.
        strip_left_spaces: spaces dropped at the very start of a text, at most this many.
    """

    byte_level: bool
    replacements: tuple[tuple[str, str], ...] = field(default=())
    strip_left_spaces: int = 0


def decode_rule(decoder: Mapping[str, object] | None) -> DecodeRule | None:
    """Return the rule that equals a `tokenizer.json` decoder section, or None when it is of another family."""
    steps = _flatten(decoder)
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        return DecodeRule(byte_level=True)
    if "ByteFallback" not in kinds:
        return None
    replacements: list[tuple[str, str]] = []
    strip_left_spaces = 0
    for i, step in enumerate(steps):
        pattern = step.get("pattern")
        match step.get("type"):
            case "Replace" if isinstance(pattern, dict) and isinstance(pattern.get("String"), str):
                # After the byte tokens are turned into text a replacement would see other strings than ours does.
                if "ByteFallback" in kinds[:i]:
                    return None
                replacements.append((pattern["String"], str(step.get("content", ""))))
            case "ByteFallback" | "Fuse":
                pass
            case "Strip" if step.get("content") == " " and step.get("stop") == 0 and "Fuse" in kinds[:i]:
                strip_left_spaces += int(str(step.get("start", 0)))
            case _:
                return None
    return DecodeRule(byte_level=False, replacements=tuple(replacements), strip_left_spaces=strip_left_spaces)


def _flatten(decoder: Mapping[str, object] | None) -> list[Mapping[str, object]]:
    if decoder is None:
        return []
    if decoder.get("type") != "Sequence":
        return [decoder]
    children = decoder.get("decoders")
    return (
        [step for child in children if isinstance(child, dict) for step in _flatten(child)]
        if isinstance(children, list)
        else []
    )


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if chr(byte) not in alphabet)
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


# GPT-2's printable stand-ins, by character.
BYTE_ALPHABET = _byte_alphabet()


class TokenBytes(dict[int, bytes]):
    """Token id -> bytes, filled on first use. Filling an entry twice from two threads gives the same value."""

    def __init__(self, rule: DecodeRule, token_of: Callable[[int], str | None], hidden_ids: Iterable[int] = ()) -> None:
        """Read token strings through `token_of`; `hidden_ids` (special tokens to skip) and unknown ids have no bytes."""
        super().__init__(dict.fromkeys(hidden_ids, b""))
        self._rule = rule
        self._token_of = token_of

    def __missing__(self, token_id: int) -> bytes:
        token = self._token_of(token_id)
        value = b"" if token is None else _bytes_of(token, self._rule)
        self[token_id] = value
        return value


def _bytes_of(token: str, rule: DecodeRule) -> bytes:
    if rule.byte_level:
        # Added tokens may hold characters outside the alphabet: they stand for themselves.
        values = [BYTE_ALPHABET.get(character, -1) for character in token]
        return token.encode() if -1 in values else bytes(values)
    for old, new in rule.replacements:
        token = token.replace(old, new)
    byte_token = _BYTE_TOKEN.fullmatch(token)
    return bytes([int(byte_token[1], 16)]) if byte_token else token.encode()
