"""The vocabulary that forms are compiled against."""

from collections.abc import Set
from typing import Protocol

from fastserve.errors import InvalidArgumentError
from fastserve.tokenizer.token_bytes import DecodeRule


class TokenSource(Protocol):
    """What of a tokenizer is needed; see `Tokenizer`."""

    @property
    def decode_rule(self) -> DecodeRule | None: ...

    @property
    def special_ids(self) -> Set[int]: ...

    def decode_token_bytes(self, token_id: int) -> bytes: ...


def token_table(tokenizer: TokenSource, vocab_size: int) -> list[bytes]:
    """Return the bytes of every token; of none for special tokens, which are part of no text.

    Args:
        tokenizer: of the model.
        vocab_size: of the model, whose logits may have more entries than the tokenizer has tokens.
    Raises:
        InvalidArgumentError: the tokens of the tokenizer do not stand for bytes one by one.
    """
    if tokenizer.decode_rule is None:
        raise InvalidArgumentError(
            "structured_outputs needs a tokenizer whose tokens stand for bytes (byte-level BPE, or BPE with byte fallback);"
            " the tokenizer of this model is of another kind"
        )
    hidden = tokenizer.special_ids
    return [b"" if i in hidden else tokenizer.decode_token_bytes(i) for i in range(vocab_size)]
