"""A rank: loads the model, owns device memory, executes plans. Obeys block ids, decides nothing."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fastserve._C import set_num_threads
from fastserve._C.sched import StepPlan
from fastserve.config import EngineConfig
from fastserve.errors import InvalidArgumentError
from fastserve.layers.context import ForwardContext
from fastserve.loader import LoadedModel, load_model
from fastserve.models.kv_cache import allocate_kv_cache, kv_block_bytes
from fastserve.ops.attention import AttentionBatch
from fastserve.ops.sampling import TokenLogprobs, sample, token_logprobs
from fastserve.worker.batch import build_batch
from fastserve.worker.memory import PoolSizes, size_pools
from fastserve.worker.step_output import StepOutput
from fastserve.worker.transfers import Transfers

IDLE_WAIT_S = 0.005  # a plan without rows waits this long for a transfer to end before it returns

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What the engine needs to know of the loaded model."""

    pools: PoolSizes
    max_model_len: int
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    dtype: str
    device: str


class Worker:
    """Used by one thread after construction."""

    def __init__(self, config: EngineConfig, progress: Progress | None = None) -> None:
        """Load the model and allocate both KV pools.

        Raises:
            CheckpointError: the checkpoint cannot be used.
            InvalidArgumentError: the configuration does not fit the model or the machine.
        """
        self._device = _resolve_device(config.model.device)
        # All heavy work runs in the core's own threads; a second pool of torch's would fight them for the same cores.
        torch.set_num_threads(1)
        if config.model.num_threads is not None:
            set_num_threads(config.model.num_threads)
        self._model: LoadedModel = load_model(
            config.model, device=torch.device(self._device), progress=_weights_progress(progress)
        )
        spec, max_model_len = self._model.spec, self._model.max_model_len
        self._block_size = config.cache.block_size
        pools = size_pools(
            config.cache,
            block_bytes=kv_block_bytes(spec, self._block_size, self._model.dtype),
            max_model_len=max_model_len,
        )
        self._kv_cache = allocate_kv_cache(
            spec, pools.num_device_blocks, self._block_size, self._model.dtype, self._device
        )
        self.transfers = Transfers(self._kv_cache, pools.num_host_blocks, canary=config.cache.kv_canary)
        self._previous_sampled = np.empty(0, np.int32)
        self.info = WorkerInfo(
            pools=pools,
            max_model_len=max_model_len,
            vocab_size=spec.vocab_size,
            eos_token_ids=tuple(self._model.eos_token_ids),
            dtype=str(self._model.dtype).removeprefix("torch."),
            device=self._device,
        )

    @property
    def kv_cache(self) -> torch.Tensor:
        """The device pool: [num_blocks, layers, 2, kv_heads, block_size, head_dim]."""
        return self._kv_cache

    @torch.inference_mode()
    def execute(self, plan: StepPlan) -> StepOutput:
        """Start the transfers of the plan, run its forward pass, sample. A plan without rows only moves KV."""
        started_s = time.perf_counter()
        self.transfers.start(plan)
        previous_sampled, sampled, logprobs = self._previous_sampled, np.empty(0, np.int32), None
        self._previous_sampled = np.full(plan.num_samples, -1, np.int32)  # what the next plan finds if this one fails
        if plan.num_rows:
            batch = build_batch(plan, previous_sampled, self._kv_cache)
            logits = self._model.decoder.forward(batch.token_ids, batch.context)
            if plan.num_samples:
                sampled = np.asarray(sample(logits, batch.sampling))
                logprobs = _logprobs(logits, sampled, plan)
        else:
            self.transfers.wait(IDLE_WAIT_S)
        self._previous_sampled = sampled
        results = self.transfers.take_results()
        return StepOutput(sampled, logprobs, results, time.perf_counter() - started_s)

    @torch.inference_mode()
    def time_iteration(self, *, prefill_tokens: int, prefill_ctx: int, num_decodes: int, decode_ctx: int) -> float:
        """Seconds of a made-up iteration, for the latency model; overwrites the KV pool, so only before serving.

        Args:
            prefill_tokens: tokens of one prefill chunk (0 = none), after `prefill_ctx` tokens of context.
            num_decodes: decode rows (0 = none), each with `decode_ctx` tokens of context.
        """
        rows = [1] * num_decodes + ([prefill_tokens] if prefill_tokens else [])
        seq_lens = [decode_ctx] * num_decodes + ([prefill_ctx + prefill_tokens] if prefill_tokens else [])
        blocks_of_row = [-(-n // self._block_size) for n in seq_lens]
        num_blocks = self.info.pools.num_device_blocks
        block_ids = np.arange(sum(blocks_of_row), dtype=np.int32) % num_blocks
        block_start = np.concatenate([[0], np.cumsum(blocks_of_row)]).astype(np.int32)
        positions = np.concatenate([np.arange(s - n, s) for n, s in zip(rows, seq_lens, strict=True)]).astype(np.int32)
        row_of_token = np.repeat(np.arange(len(rows)), rows)
        slots = block_ids[block_start[row_of_token] + positions // self._block_size].astype(np.int64)
        slots = slots * self._block_size + positions % self._block_size
        query_start = np.concatenate([[0], np.cumsum(rows)]).astype(np.int32)
        context = ForwardContext(
            positions=torch.from_numpy(positions),
            slots=torch.from_numpy(slots),
            attention=AttentionBatch(
                query_start=query_start,
                seq_lens=np.array(seq_lens, np.int32),
                block_start=block_start,
                block_ids=block_ids,
                num_decode_rows=num_decodes,
            ),
            kv_cache=self._kv_cache,
            logit_rows=torch.from_numpy(query_start[1:].astype(np.int64) - 1),
        )
        token_ids = torch.from_numpy(np.arange(len(positions), dtype=np.int32) % self.info.vocab_size)
        started_s = time.perf_counter()
        self._model.decoder.forward(token_ids, context)
        return time.perf_counter() - started_s

    def close(self) -> None:
        """Stop the copy threads."""
        self.transfers.close()


def _logprobs(logits: torch.Tensor, sampled: np.ndarray, plan: StepPlan) -> TokenLogprobs | None:
    num_top = int(plan.num_logprobs.max())
    return None if num_top < 0 else token_logprobs(logits, sampled, num_top)


def _resolve_device(device: str) -> str:
    if device == "cuda":
        raise InvalidArgumentError("device must be cpu or auto in this build: there is no CUDA worker yet, got cuda")
    return "cpu"


def _weights_progress(progress: Progress | None) -> Callable[[str, int, int], None] | None:
    if progress is None:
        return None
    return lambda _name, done, total: progress("weights", done, total)
