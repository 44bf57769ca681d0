"""Runs plans on the CPU: the arrays of a plan are the inputs of the kernels, and a step has ended when it returns."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from fastserve._C.sched import StepPlan
from fastserve.layers.context import ForwardContext
from fastserve.models.decoder import Decoder
from fastserve.ops.attention import AttentionBackend, AttentionBatch
from fastserve.ops.sampling import TokenLogprobs, sample, token_logprobs
from fastserve.worker.batch import build_batch
from fastserve.worker.row_inputs import RowInputs


@dataclass(frozen=True, slots=True)
class Sampled:
    """int32[S], and the log-probabilities when any entry asked for them."""

    tokens: np.ndarray
    logprobs: TokenLogprobs | None = None


class CpuRunner:
    """Used by one thread."""

    def __init__(
        self, decoder: Decoder, kv_cache: torch.Tensor, backend: AttentionBackend = AttentionBackend.NATIVE
    ) -> None:
        self._decoder = decoder
        self._backend = backend
        self._kv_cache = kv_cache
        self._previous_sampled = np.empty(0, np.int32)

    def launch(self, plan: StepPlan) -> Sampled:
        """Run a plan, with rows or without."""
        previous_sampled = self._previous_sampled
        self._previous_sampled = np.full(plan.num_samples, -1, np.int32)  # what the next plan finds if this one fails
        result = Sampled(np.empty(0, np.int32))
        if plan.num_rows:
            batch = build_batch(plan, previous_sampled, self._kv_cache, self._backend)
            logits = self._decoder.forward(batch.token_ids, batch.context)
            if plan.num_samples:
                tokens = np.asarray(sample(logits, batch.sampling))
                result = Sampled(tokens, _logprobs(logits, tokens, plan))
        self._previous_sampled = result.tokens
        return result

    def finish(self, launched: Sampled) -> Sampled:
        """The result of `launch`."""
        return launched

    def time(self, rows: RowInputs) -> float:
        """Seconds of a forward pass over made-up rows."""
        context = ForwardContext(
            positions=torch.from_numpy(rows.positions),
            slots=torch.from_numpy(rows.slots),
            attention=AttentionBatch(
                query_start=rows.query_start,
                seq_lens=rows.seq_lens,
                block_start=rows.block_start,
                block_ids=rows.block_ids,
                num_decode_rows=rows.num_decode_rows,
                backend=self._backend,
            ),
            kv_cache=self._kv_cache,
            logit_rows=torch.from_numpy(rows.logit_rows),
        )
        token_ids = torch.from_numpy(rows.token_ids)
        started_s = time.perf_counter()
        self._decoder.forward(token_ids, context)
        return time.perf_counter() - started_s


def _logprobs(logits: torch.Tensor, sampled: np.ndarray, plan: StepPlan) -> TokenLogprobs | None:
    num_top = int(plan.num_logprobs.max())
    return None if num_top < 0 else token_logprobs(logits, sampled, num_top)
