"""A worker in miniature: runs sequences through a decoder over scattered KV blocks, any mix of chunks per step."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from fastserve.layers.context import ForwardContext
from fastserve.models.decoder import Decoder
from fastserve.models.kv_cache import allocate_kv_cache
from fastserve.ops.attention import AttentionBatch


@dataclass
class PagedSequence:
    """Tokens so far, how many of them have their KV in the cache, and in which blocks."""

    token_ids: list[int]
    num_computed: int = 0
    block_ids: list[int] = field(default_factory=list)


class PagedRunner:
    """Owns a KV cache whose blocks are handed out in random order."""

    def __init__(self, decoder: Decoder, *, num_blocks: int = 64, block_size: int = 16, seed: int = 0) -> None:
        self._decoder = decoder
        self._block_size = block_size
        self._kv_cache = allocate_kv_cache(decoder.spec, num_blocks, block_size, decoder.dtype, decoder.device)
        self._free_blocks = list(range(num_blocks))
        random.Random(seed).shuffle(self._free_blocks)

    def step(self, work: Sequence[tuple[PagedSequence, int]]) -> dict[int, torch.Tensor]:
        """Compute the next so many tokens of each sequence, in one forward pass.

        Returns:
            Logits [vocab_size] after the last token, by position in `work`, of the sequences that have no token left.
        """
        order = sorted(range(len(work)), key=lambda index: work[index][1] != 1)
        rows = [work[index] for index in order]
        token_ids, positions, slots, block_ids, logit_rows = [], [], [], [], []
        query_start, block_start = [0], [0]
        for sequence, count in rows:
            end = sequence.num_computed + count
            while len(sequence.block_ids) * self._block_size < end:
                sequence.block_ids.append(self._free_blocks.pop())
            span = range(sequence.num_computed, end)
            token_ids += sequence.token_ids[span.start : end]
            positions += span
            slots += [
                sequence.block_ids[position // self._block_size] * self._block_size + position % self._block_size
                for position in span
            ]
            block_ids += sequence.block_ids
            query_start.append(len(token_ids))
            block_start.append(len(block_ids))
            sequence.num_computed = end
            if end == len(sequence.token_ids):
                logit_rows.append(len(token_ids) - 1)
        batch = AttentionBatch(
            query_start=torch.tensor(query_start, dtype=torch.int32),
            seq_lens=torch.tensor([sequence.num_computed for sequence, _ in rows], dtype=torch.int32),
            block_start=torch.tensor(block_start, dtype=torch.int32),
            block_ids=torch.tensor(block_ids, dtype=torch.int32),
            num_decode_rows=sum(count == 1 for _, count in rows),
        )
        ctx = ForwardContext(
            positions=torch.tensor(positions, dtype=torch.int32),
            slots=torch.tensor(slots, dtype=torch.int64),
            attention=batch,
            kv_cache=self._kv_cache,
            logit_rows=torch.tensor(logit_rows, dtype=torch.int64),
        )
        logits = self._decoder.forward(torch.tensor(token_ids, dtype=torch.int32), ctx)
        finished = [index for index, (sequence, _) in zip(order, rows, strict=True) if not remaining(sequence)]
        return dict(zip(finished, logits, strict=True))

    def generate(self, prompts: Sequence[list[int]], num_tokens: int, *, chunk: int) -> list[list[int]]:
        """Greedy continuations, prompts in chunks of at most `chunk` tokens, all requests in every step."""
        sequences = [PagedSequence(list(prompt)) for prompt in prompts]
        outputs: list[list[int]] = [[] for _ in prompts]
        while active := [index for index, output in enumerate(outputs) if len(output) < num_tokens]:
            work = [(sequences[index], min(chunk, remaining(sequences[index]))) for index in active]
            for position, logits in self.step(work).items():
                token = int(logits.argmax())
                outputs[active[position]].append(token)
                sequences[active[position]].token_ids.append(token)
        return outputs


def remaining(sequence: PagedSequence) -> int:
    """Tokens whose KV is not computed yet."""
    return len(sequence.token_ids) - sequence.num_computed


def all_logits(decoder: Decoder, token_ids: list[int]) -> torch.Tensor:
    """Logits after every token of one sequence: float32 [num_tokens, vocab_size]."""
    runner = PagedRunner(decoder, num_blocks=len(token_ids) // 16 + 1)
    sequence = PagedSequence([])
    rows = []
    for token in token_ids:
        sequence.token_ids.append(token)
        rows.append(runner.step([(sequence, 1)])[0])
    return torch.stack(rows)
