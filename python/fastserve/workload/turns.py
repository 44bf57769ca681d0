"""Which requests go on from an earlier answer, found by their tokens alone."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class _Ended:
    """A turn that has ended: its conversation, when it arrived, tokens of prompt and output."""

    conversation: int
    arrival_s: float
    total_tokens: int


class TurnMatcher:
    """Numbers conversations: a prompt that begins with an earlier prompt and its output is the next turn of the same.

    Compares whole blocks of tokens by their hashes and remembers the latest ends of turns only. A turn has one
    successor at most: a second answer to the same question is a conversation of its own.
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._capacity = capacity
        self._ends: OrderedDict[bytes, _Ended] = OrderedDict()
        self._count = 0

    def end_turn(self, arrival_s: float, prompt_ids: Sequence[int], output_ids: Sequence[int]) -> int:
        """Take a request that has ended; returns the number of its conversation."""
        prompt = np.asarray(prompt_ids, np.int32)
        conversation = self._go_on(arrival_s, prompt)
        if conversation is None:
            conversation = self._count
            self._count += 1
        tokens = np.concatenate([prompt, np.asarray(output_ids, np.int32)])
        if len(tokens) >= BLOCK_TOKENS:
            *_, key = _prefix_keys(tokens)
            self._ends[key] = _Ended(conversation, arrival_s, len(tokens))
            if len(self._ends) > self._capacity:
                self._ends.popitem(last=False)
        return conversation

    def _go_on(self, arrival_s: float, prompt: np.ndarray) -> int | None:
        for key in reversed(list(_prefix_keys(prompt))):
            former = self._ends.get(key)
            if former is not None and former.total_tokens <= len(prompt) and former.arrival_s <= arrival_s:
                del self._ends[key]
                return former.conversation
        return None


def _prefix_keys(tokens: np.ndarray) -> Iterator[bytes]:
    """A key for each prefix of whole blocks, the shortest first."""
    running = blake2b(digest_size=12)
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        running.update(tokens[start : start + BLOCK_TOKENS].tobytes())
        yield running.digest()
