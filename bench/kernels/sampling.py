"""ops.sample and ops.token_logprobs against the usual torch code, which sorts the vocabulary."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import numpy as np
import torch

from bench.kernels.case import FASTSERVE, Case
from fastserve import ops

NUM_TOP = 5


def cases(*, quick: bool) -> Iterator[Case]:
    for vocab_size in [32000] if quick else [32000, 152064]:
        for num_rows in [16] if quick else [1, 16]:
            yield from _cases(num_rows, vocab_size)


def gpu_cases(*, quick: bool) -> Iterator[Case]:
    for num_rows in [128] if quick else [1, 16, 128]:
        for case in _cases(num_rows, 128_256):
            yield replace(case, bytes_moved=num_rows * 128_256 * 4)


def _cases(num_rows: int, vocab_size: int) -> Iterator[Case]:
    # Token frequencies fall like a power of the rank, so few tokens hold the mass.
    ranks = torch.stack([torch.randperm(vocab_size) for _ in range(num_rows)])
    logits = -1.5 * (ranks + 1.0).log()
    shape = f"R={num_rows} V={vocab_size}"
    yield Case("sample greedy", shape, _sample(logits))
    yield Case("sample t=1", shape, _sample(logits, temperature=1.0))
    yield Case("sample top_k", shape, _sample(logits, temperature=1.0, top_k=50))
    yield Case("sample top_p", shape, _sample(logits, temperature=0.8, top_p=0.9))
    yield Case("sample top_k_p", shape, _sample(logits, temperature=0.8, top_k=50, top_p=0.9))
    yield Case("logprobs", shape, _logprobs(logits))


def _sample(
    logits: torch.Tensor, *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0
) -> dict[str, Callable[[], object]]:
    num_rows = len(logits)
    empty = np.empty(0, dtype=np.int32)
    zeros = np.zeros(num_rows + 1, dtype=np.int32)
    batch = ops.SamplingBatch(
        temperature=np.full(num_rows, temperature, dtype=np.float32),
        top_k=np.full(num_rows, top_k, dtype=np.int32),
        top_p=np.full(num_rows, top_p, dtype=np.float32),
        min_p=np.zeros(num_rows, dtype=np.float32),
        repetition_penalty=np.ones(num_rows, dtype=np.float32),
        presence_penalty=np.zeros(num_rows, dtype=np.float32),
        frequency_penalty=np.zeros(num_rows, dtype=np.float32),
        seeds=np.arange(num_rows, dtype=np.int64),
        counters=np.zeros(num_rows, dtype=np.int64),
        history_start=zeros,
        history_tokens=empty,
        history_prompt_len=zeros[1:],
        banned_start=zeros,
        banned_tokens=empty,
        bias_start=zeros,
        bias_tokens=empty,
        bias_values=np.empty(0, dtype=np.float32),
        only_biased=zeros[1:],
    )
    if logits.is_cuda:
        arrays = {field.name: getattr(batch, field.name) for field in fields(batch)}
        batch = ops.SamplingBatch(**{name: torch.from_numpy(array).to(logits.device) for name, array in arrays.items()})

    def with_torch() -> torch.Tensor:
        if temperature == 0:
            return logits.argmax(1)
        scaled = logits / temperature
        if top_k > 0:
            scaled = scaled.masked_fill(scaled < scaled.topk(top_k).values[:, -1:], -torch.inf)
        if top_p < 1:
            ordered, ids = scaled.sort(dim=1, descending=True)
            probabilities = ordered.softmax(1)
            drop = probabilities.cumsum(1) - probabilities >= top_p
            scaled = torch.empty_like(scaled).scatter_(1, ids, ordered.masked_fill(drop, -torch.inf))
        return torch.multinomial(scaled.softmax(1), 1)

    return {FASTSERVE: lambda: ops.sample(logits, batch), "torch": with_torch}


def _logprobs(logits: torch.Tensor) -> dict[str, Callable[[], object]]:
    chosen = logits.argmax(1, keepdim=True)
    tokens = chosen[:, 0].to(torch.int32)

    def with_torch() -> tuple[torch.Tensor, ...]:
        logprobs = logits.log_softmax(1)
        of_tokens = logprobs.gather(1, chosen)
        return of_tokens, (logprobs > of_tokens).sum(1), *logprobs.topk(NUM_TOP)

    return {FASTSERVE: lambda: ops.token_logprobs(logits, tokens, NUM_TOP), "torch": with_torch}
