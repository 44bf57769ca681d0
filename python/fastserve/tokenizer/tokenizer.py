"""A Hugging Face tokenizer as the engine uses it. Safe from any thread: nothing changes after construction."""

import json
from collections.abc import Iterable, Mapping, Sequence

import tokenizers

from fastserve.errors import InvalidArgumentError
from fastserve.tokenizer.char_bound import max_chars_per_token
from fastserve.tokenizer.chat_template import ChatTemplates, Message, TemplateOptions
from fastserve.tokenizer.panics import panics_refused
from fastserve.tokenizer.token_bytes import DecodeRule, TokenBytes, decode_rule

# Up to here `decode`, which holds the GIL, takes less than a quarter of a millisecond, and less than `decode_batch`.
_SHORT_TOKENS = 256
_DEFAULTS = TemplateOptions()


class Tokenizer:
    """Encode, decode and render chats.

    Attributes:
        decode_rule: how token ids become bytes one by one; None when the decoder is of another family.
        special_ids: ids that `skip_special_tokens` hides.
        max_chars_per_token: a text of more than this times n characters has more than n tokens; None = no such bound.
        chat_templates: the model's templates; rendering runs a program of the checkpoint.
        bos_token_id, eos_token_id: None when the model has none.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str] | None = None,
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        """Wrap a backend, which must not be changed afterwards.

        Args:
            backend: the tokenizer; its padding and truncation are switched off.
            special_tokens: by role, for example `{"eos_token": "</s>"}`.
            chat_templates: Jinja sources by name: "default", and "tool_use" where the model has one.
        """
        backend.no_padding()
        backend.no_truncation()
        self._backend = backend
        self._special_tokens = dict(special_tokens or {})
        self.chat_templates = ChatTemplates(chat_templates or {}, self._special_tokens)
        added = backend.get_added_tokens_decoder()
        self.special_ids: frozenset[int] = frozenset(i for i, token in added.items() if token.special)
        self.bos_token_id = self._special_id("bos_token")
        self.eos_token_id = self._special_id("eos_token")
        description = json.loads(backend.to_str())
        self.decode_rule: DecodeRule | None = decode_rule(description["decoder"])
        self.max_chars_per_token: int | None = max_chars_per_token(backend, description)
        rule = self.decode_rule or DecodeRule(byte_level=False)
        self._bytes = TokenBytes(rule, backend.id_to_token)
        self._visible_bytes = TokenBytes(rule, backend.id_to_token, hidden_ids=self.special_ids)
        self._vocab_size: int = backend.get_vocab_size(with_added_tokens=True)

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included; the model's embedding may have more rows."""
        return self._vocab_size

    @property
    def has_chat_template(self) -> bool:
        """Whether `render_chat` can work."""
        return bool(self.chat_templates.sources)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text, with the model's begin/end tokens by default.

        Releases the GIL for all but the copy of the ids, which takes about 20 ms per million.
        """
        try:  # the backend's own `encode` holds the GIL throughout, and works out offsets as well
            with panics_refused("this text"):
                return self._backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidArgumentError(f"the text to encode must be valid Unicode: {error}") from error

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ids; ids outside the vocabulary are left out.

        Releases the GIL for all but the copy of the ids, which takes about 10 ms per million.
        """
        try:
            if len(token_ids) <= _SHORT_TOKENS:
                return self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
            return self._backend.decode_batch([token_ids], skip_special_tokens=skip_special_tokens)[0]
        except (TypeError, OverflowError) as error:
            raise InvalidArgumentError(f"token ids must be integers of at least 0 and below 2**32: {error}") from error

    def render_chat(self, messages: Sequence[Message], options: TemplateOptions = _DEFAULTS) -> str:
        """Return the prompt of a conversation by the model's chat template; encode it without special tokens.

        Raises:
            InvalidArgumentError: the model has no template, or the template refuses the messages.
        """
        return self.chat_templates.render(messages, options)

    def id_to_token(self, token_id: int) -> str | None:
        """Return the vocabulary's spelling of a token, None when there is no such id."""
        return self._backend.id_to_token(token_id)

    def decode_token_bytes(self, token_id: int) -> bytes:
        """Return the bytes that a token adds to the text; b"" for ids outside the vocabulary."""
        return self._bytes[token_id]

    def token_bytes(self, *, skip_special_tokens: bool) -> Mapping[int, bytes]:
        """Return the shared id -> bytes table; meaningful only where `decode_rule` is set."""
        return self._visible_bytes if skip_special_tokens else self._bytes

    def visible_ids(self, token_ids: Iterable[int]) -> list[int]:
        """Return the ids that are not special tokens."""
        special = self.special_ids
        return [i for i in token_ids if i not in special]

    def _special_id(self, role: str) -> int | None:
        token = self._special_tokens.get(role)
        return None if token is None else self._backend.token_to_id(token)
