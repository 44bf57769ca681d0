"""Where one output stands in its form, and which tokens may come next."""

from collections.abc import Iterable

import numpy as np
import xgrammar

WORD_BITS = 32


def num_words(vocab_size: int) -> int:
    """Words of 32 bits that hold one bit per token."""
    return -(-vocab_size // WORD_BITS)


class OutputMatcher:
    """Follows an output token by token. Used by one thread at a time.

    End tokens may come where the form is complete. Before `min_tokens`, and with `ignore_eos`, they are held back as long
    as any other token may come; where none may, the output ends.
    """

    def __init__(
        self,
        compiled: xgrammar.CompiledGrammar,
        vocab_size: int,
        *,
        end_token_ids: Iterable[int],
        stop_token_ids: Iterable[int] = (),
        min_tokens: int = 0,
        ignore_eos: bool = False,
    ) -> None:
        """Begin an output.

        Args:
            compiled: its form.
            vocab_size: of the model.
            end_token_ids: that the form was compiled with.
            stop_token_ids: other tokens that end the output, held back before `min_tokens`.
            min_tokens, ignore_eos: see SamplingParams.
        """
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._min_tokens = min_tokens
        self._others = _all_but(end_token_ids, vocab_size) if ignore_eos else None
        self._early = _all_but((*end_token_ids, *stop_token_ids), vocab_size) if min_tokens else None
        self._failed = False
        self.num_tokens = 0

    def take(self, index: int, token: int) -> None:
        """Take the output's token number `index`; a token that was taken there before, and all behind it, are undone.

        A negative token ends the output.
        """
        if index < self.num_tokens:
            self._matcher.rollback(self.num_tokens - index)
        self.num_tokens = index + 1
        if self._failed or self._matcher.is_terminated():
            return  # the output has ended and the step does not know it yet
        if token < 0 or not self._matcher.accept_token(token):
            self._failed = True

    def fill(self, masks: np.ndarray, row: int) -> None:
        """Write which tokens may come next: bit t % 32 of masks[row, t // 32] is 1 where token t may.

        Args:
            masks: int32 [rows, num_words].
            row: all 0 afterwards where the output cannot go on, all 1 where it has ended.
        """
        if self._failed:
            masks[row] = 0
        elif self._matcher.is_terminated():
            masks[row] = -1
        else:
            self._matcher.fill_next_token_bitmask(masks, row)
            wanted = self._early if self.num_tokens < self._min_tokens else self._others
            if wanted is not None and (kept := masks[row] & wanted).any():
                masks[row] = kept


def _all_but(token_ids: Iterable[int], vocab_size: int) -> np.ndarray:
    """The mask of all tokens but some, int32 [num_words]."""
    bits = np.ones(num_words(vocab_size) * WORD_BITS, np.uint8)
    bits[[i for i in token_ids if i < vocab_size]] = 0
    return np.packbits(bits, bitorder="little").view(np.int32)
