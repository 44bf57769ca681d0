"""A Hugging Face tokenizer as the engine uses it. Safe from any thread: nothing changes after construction."""

import json
from collections.abc import Iterable, Mapping, Sequence

import tokenizers

from fastserve.errors import InvalidArgumentError
from fastserve.tokenizer.chat_template import ChatTemplate, Message
from fastserve.tokenizer.token_bytes import DecodeRule, TokenBytes, decode_rule


class Tokenizer:
    """Encode, decode and render chats.

    Attributes:
        decode_rule: how token ids become bytes one by one; None when the decoder is of another family.
        special_ids: ids that `skip_special_tokens` hides.
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
        self._chat_templates = {
            name: ChatTemplate(source, self._special_tokens) for name, source in (chat_templates or {}).items()
        }
        added = backend.get_added_tokens_decoder()
        self.special_ids: frozenset[int] = frozenset(i for i, token in added.items() if token.special)
        self.bos_token_id = self._special_id("bos_token")
        self.eos_token_id = self._special_id("eos_token")
        self.decode_rule: DecodeRule | None = decode_rule(json.loads(backend.to_str())["decoder"])
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
        return bool(self._chat_templates)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Return the ids of a text, with the model's begin/end tokens unless told otherwise. Releases the GIL."""
        try:
            return self._backend.encode(text, add_special_tokens=add_special_tokens).ids
        except (TypeError, UnicodeEncodeError) as error:
            raise InvalidArgumentError(f"the text to encode must be valid Unicode: {error}") from error

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Return the text of ids; ids outside the vocabulary are left out."""
        try:
            return self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
        except (TypeError, OverflowError) as error:
            raise InvalidArgumentError(f"token ids must be integers of at least 0 and below 2**32: {error}") from error

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[object] | None = None,
    ) -> str:
        """Return the prompt of a conversation by the model's chat template; encode it without special tokens.

        Raises:
            InvalidArgumentError: the model has no template, or the template refuses the messages.
        """
        template = (self._chat_templates.get("tool_use") if tools else None) or self._chat_templates.get("default")
        if template is None:
            raise InvalidArgumentError(
                "the model has no chat template (chat_template.jinja or tokenizer_config.json);"
                " use completions with a prompt instead"
            )
        return template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools)

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
