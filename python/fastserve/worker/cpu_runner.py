"""Runs plans on the CPU: the arrays of a plan are the inputs of the kernels, and a step has ended when it returns."""

import time

import numpy as np
import torch

from fastserve._C.sched import StepPlan
from fastserve.layers.context import ForwardContext
from fastserve.models.decoder import Decoder
from fastserve.ops.attention import AttentionBackend, AttentionBatch
from fastserve.ops.sampling import sample, token_logprobs
from fastserve.worker.batch import build_batch
from fastserve.worker.request_table import RequestTable
from fastserve.worker.row_inputs import RowInputs, control_row
from fastserve.worker.rows_apart import greedy_row, run_apart
from fastserve.worker.sampled import Sampled, nothing_sampled


class CpuRunner:
    """Used by one thread."""

    def __init__(
        self,
        decoder: Decoder,
        kv_cache: torch.Tensor,
        requests: RequestTable,
        backend: AttentionBackend = AttentionBackend.NATIVE,
    ) -> None:
        self._decoder = decoder
        self._requests = requests
        self._backend = backend
        self._kv_cache = kv_cache
        self._previous_sampled = np.empty(0, np.int32)

    def launch(self, plan: StepPlan) -> Sampled:
        """Run a plan, with rows or without; rows that cannot run fail alone."""
        previous_sampled = self._previous_sampled
        self._previous_sampled = np.full(plan.num_samples, -1, np.int32)  # what the next plan finds if this one fails
        result = nothing_sampled()
        if plan.num_rows:
            try:
                result = self._run(plan, previous_sampled)
            except Exception as error:
                result = run_apart(
                    plan,
                    error,
                    run=lambda part: self._run(part, previous_sampled),
                    control=self._run_control_row,
                    num_logprobs=self._requests.num_logprobs_of(plan),
                )
        self._previous_sampled = result.tokens
        return result

    def finish(self, launched: Sampled) -> Sampled:
        """The result of `launch`."""
        return launched

    def time(self, rows: RowInputs) -> float:
        """Seconds of a forward pass over made-up rows."""
        started_s = time.perf_counter()
        self._forward(rows)
        return time.perf_counter() - started_s

    def _run(self, plan: StepPlan, previous_sampled: np.ndarray) -> Sampled:
        batch = build_batch(plan, previous_sampled, self._kv_cache, self._backend)
        logits = self._decoder.forward(batch.token_ids, batch.context)
        if not plan.num_samples:
            return nothing_sampled()
        entries = self._requests.entries(plan)
        tokens = np.asarray(sample(logits, entries.batch))
        num_top = int(entries.num_logprobs.max())
        return Sampled(tokens, None if num_top < 0 else token_logprobs(logits, tokens, num_top))

    def _run_control_row(self) -> None:
        logits = self._forward(control_row(self._kv_cache.shape[-2]))
        token_logprobs(logits, np.asarray(sample(logits, greedy_row(logits.device))), 1)

    def _forward(self, rows: RowInputs) -> torch.Tensor:
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
        return self._decoder.forward(torch.from_numpy(rows.token_ids), context)
