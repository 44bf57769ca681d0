"""A rank: loads the model, owns device memory, executes plans. Obeys block ids, decides nothing."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import cast

import torch

from fastserve._C import set_num_threads
from fastserve._C.sched import StepPlan
from fastserve.config import EngineConfig
from fastserve.distributed.group import Group
from fastserve.distributed.pipe import Pipe
from fastserve.distributed.single import SINGLE
from fastserve.errors import DeviceLostError, InvalidArgumentError
from fastserve.grammars.store import FormStore
from fastserve.loader.load import LoadedModel, ModelOutline, load_model, outline_model
from fastserve.models.shard import WHOLE, Shard, check_shard
from fastserve.tokenizer.load import load_tokenizer
from fastserve.types import StructuredOutputs
from fastserve.worker.attention_choice import selftest_of_hopper_kernels
from fastserve.worker.device import Device, memory_advice, open_device
from fastserve.worker.info import IDLE_WAIT_S, Progress, WorkerInfo, end_tokens
from fastserve.worker.output_masks import OutputMasks
from fastserve.worker.request_changes import NO_CHANGES, RequestChanges
from fastserve.worker.request_table import RequestTable
from fastserve.worker.row_inputs import dummy_rows
from fastserve.worker.runner import StepResult
from fastserve.worker.sampled import Sampled
from fastserve.worker.start import start_runner
from fastserve.worker.step_output import StepLogprobs, StepOutput
from fastserve.worker.transfers import Transfers


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A plan that was given to the device; for `Worker.finish`."""

    plan: StepPlan
    work: StepResult | Sampled
    started_s: float


class Worker:
    """`launch` is called by one thread and `finish`, in the same order, by one thread, which may be another."""

    def __init__(
        self,
        config: EngineConfig,
        progress: Progress | None = None,
        *,
        shard: Shard = WHOLE,
        group: Group = SINGLE,
        world: Group = SINGLE,
    ) -> None:
        """Load the model, or the rank's part of it, and allocate both KV pools.

        Args:
            progress: called as progress(stage, done, total) while weights are read and graphs are captured.
            shard, group: the place of this rank, and its end of the group of its stage.
            world: its end of the group of all ranks, which are made at the same time.
        Raises:
            CheckpointError: the checkpoint cannot be used.
            InvalidArgumentError: the configuration does not fit the model or the machine.
            DeviceError: the GPU that is asked for cannot be used, host memory cannot be page-locked for it, or KV cannot
                be copied between the two.
        """
        self._device = open_device(config.model.device)
        if config.parallel.has_rank_processes and not self._device.is_host:
            raise InvalidArgumentError(
                f"ranks on GPUs are not supported yet, got tensor_parallel_size {shard.tensor_size}, pipeline_parallel_size"
                f" {shard.num_stages} and distributed_executor_backend {config.parallel.distributed_executor_backend}: use"
                f" --device cpu, or one rank without --distributed-executor-backend mp"
            )
        if (num_threads := _threads_of_rank(config.model.num_threads, world.size)) is not None:
            set_num_threads(num_threads)
        outline = outline_model(config.model)
        check_shard(outline.spec, shard)
        self._pipe = shard_pipe(shard, world)
        spec, self._block_size = outline.spec, config.cache.block_size
        ends = end_tokens(spec.eos_token_ids, config.eos_token_ids, spec.vocab_size)
        self._forms = FormStore(lambda: load_tokenizer(config.model), spec.vocab_size, ends)
        self._output_masks = OutputMasks(self._forms)
        self._requests = RequestTable(self._output_masks)
        with selftest_of_hopper_kernels(
            config.model.attention_backend, outline, block_size=self._block_size, device=self._device.torch_device
        ) as selftest:
            self._model = _load(config, outline, self._device, progress, shard=shard, group=group, world=world)
            started = start_runner(
                config,
                self._model,
                self._device,
                world=world,
                pipe=self._pipe,
                requests=self._requests,
                selftest=selftest,
                progress=progress,
            )
        pools, self._kv_cache, self._runner = started.pools, started.kv_cache, started.runner
        self.transfers = Transfers(
            self._kv_cache,
            pools.num_host_blocks,
            canary=config.cache.kv_canary,
            compute_stream=self._device.stream,
            allow_pageable=config.cache.allow_pageable_host_kv,
        )
        offload_bytes_per_s = upload_bytes_per_s = 0.0
        if not self._device.is_host:
            self.transfers.measure_link()
            offload_bytes_per_s, upload_bytes_per_s = self.transfers.link_bytes_per_s()
        self._is_alone = shard.num_stages == 1
        self._fault: str | None = None
        self._last_end_s = 0.0
        self.info = WorkerInfo(
            pools=pools,
            max_model_len=self._model.max_model_len,
            vocab_size=spec.vocab_size,
            eos_token_ids=tuple(self._model.eos_token_ids),
            dtype=str(self._model.dtype).removeprefix("torch."),
            device=self._device.label,
            attention_backend=started.attention.backend.value,
            kernel_fallback=started.attention.fallback,
            offload_bytes_per_s=offload_bytes_per_s,
            upload_bytes_per_s=upload_bytes_per_s,
        )

    @property
    def kv_cache(self) -> torch.Tensor:
        """The device pool: [num_blocks, layers, 2, kv_heads, block_size, head_dim]."""
        return self._kv_cache

    @property
    def works_ahead(self) -> bool:
        """Whether `launch` returns before the step has ended: `finish` then belongs on a thread of its own."""
        return not self._device.is_host

    @torch.inference_mode()
    def launch(self, plan: StepPlan, changes: RequestChanges = NO_CHANGES) -> LaunchedStep:
        """Start the transfers of the plan and its forward pass. A plan without rows only moves KV.

        Args:
            changes: of the request table, since the plan before.
        Raises:
            DeviceLostError: the device is lost, in this step or in an earlier one.
        """
        self._requests.apply(changes)
        self.check_device()
        started_s = time.perf_counter()
        with _FaultWatch(self):
            self.transfers.start(plan)
            return LaunchedStep(plan, self._runner.launch(plan), started_s)

    def finish(self, launched: LaunchedStep) -> StepOutput:
        """Wait for a launched plan and return what it sampled.

        Raises:
            DeviceLostError: the device is lost, as this step, a copy or the launch of the next step has met: what it
                computed and holds cannot be trusted.
        """
        with _FaultWatch(self):
            try:
                sampled = self._runner.finish(launched.work)
            except BaseException:
                self._output_masks.abandon()
                raise
        plan = launched.plan
        if self._pipe.is_last:
            self._requests.record(plan, sampled.tokens)
        if not plan.num_rows and (self._is_alone or not plan.num_transfers):  # other stages may have rows to run
            self.transfers.wait(IDLE_WAIT_S)
        results = self.transfers.take_results()
        self.check_device()  # last: no result leaves after a fault was seen, wherever that was
        end_s = time.perf_counter()
        elapsed_s = end_s - max(launched.started_s, self._last_end_s)  # not the wait behind the step before
        elapsed_s = max(0.0, elapsed_s - self._pipe.take_waited_s())
        self._last_end_s = end_s
        logprobs = cast("StepLogprobs | None", sampled.logprobs)  # on the host by now
        output = StepOutput(
            sampled.tokens, logprobs, results, elapsed_s, sampled.errors, prompt_logprobs=sampled.prompt_logprobs
        )
        if sampled.logprobs is None:
            return output
        return replace(output, num_logprobs=self._requests.num_logprobs_of(plan))

    def prepare_form(self, form: StructuredOutputs) -> "Future[object]":
        """Begin to compile the form of an output; see Executor. For any thread."""
        return cast("Future[object]", self._forms.prepare(form))

    def execute(self, plan: StepPlan, changes: RequestChanges = NO_CHANGES) -> StepOutput:
        """Run a plan from its start to its end."""
        return self.finish(self.launch(plan, changes))

    @torch.inference_mode()
    def time_iteration(self, *, prefill_tokens: int, prefill_ctx: int, num_decodes: int, decode_ctx: int) -> float:
        """Return the seconds of a dummy iteration, for the latency model; overwrites the KV pool, so call it before serving.

        Args:
            prefill_tokens: tokens of one prefill chunk (0 = none), after `prefill_ctx` tokens of context.
            num_decodes: decode rows (0 = none), each with `decode_ctx` tokens of context.
        """
        rows = dummy_rows(
            [1] * num_decodes + ([prefill_tokens] if prefill_tokens else []),
            [decode_ctx] * num_decodes + ([prefill_ctx + prefill_tokens] if prefill_tokens else []),
            num_decode_rows=num_decodes,
            num_blocks=self.info.pools.num_device_blocks,
            block_size=self._block_size,
            vocab_size=self.info.vocab_size,
        )
        seconds = self._runner.time(rows)
        return max(0.0, seconds - self._pipe.take_waited_s())

    def close(self) -> None:
        """Stop the threads for copies and forms."""
        self.transfers.close()
        self._output_masks.close()
        self._forms.close()

    def check_device(self) -> None:
        """Raise DeviceLostError once the device was lost."""
        if self._fault is None and (reason := self.transfers.device_fault):
            self._lose_device(reason)
        if self._fault is not None:
            raise DeviceLostError(self._fault)

    def note_error(self, error: BaseException) -> None:
        """Remember a fault of the device, so that no later step delivers tokens computed from corrupt state.

        Raises:
            DeviceLostError: it was one.
        """
        if self._device.is_fault(error):
            self._lose_device(error)
            raise DeviceLostError(self._fault) from error

    def _lose_device(self, reason: object) -> None:
        first_line = str(reason).partition("\n")[0]  # torch adds paragraphs of advice, which the log has
        self._fault = self._fault or f"the device failed and cannot be used any more: {first_line}"


def shard_pipe(shard: Shard, world: Group) -> Pipe:
    """The pipe of a rank: to the ranks of the stages beside its own that have the same part of their layers."""
    return Pipe(
        world,
        source=None if shard.is_first else world.rank - shard.tensor_size,
        to=None if shard.is_last else world.rank + shard.tensor_size,
    )


class _FaultWatch:
    """Convert errors of the device that leave the scope to DeviceLostError; other errors pass unchanged."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            self._worker.note_error(error)


def _threads_of_rank(asked: int | None, num_ranks: int) -> int | None:
    """Compute threads of a rank; None = as the core does by itself. Ranks share the cores that this process may use."""
    if asked is not None or num_ranks == 1:
        return asked
    return max(1, len(os.sched_getaffinity(0)) // num_ranks)


def _load(
    config: EngineConfig,
    outline: ModelOutline,
    device: Device,
    progress: Progress | None,
    *,
    shard: Shard,
    group: Group,
    world: Group,
) -> LoadedModel:
    with memory_advice(
        f"the weights of {config.model.model} do not fit into the memory of the GPU: use a smaller model, --dtype bfloat16"
        f" or a GPU with more free memory"
    ):
        return load_model(
            config.model,
            device=device.torch_device,
            shard=shard,
            group=group,
            world=world,
            progress=_weights_progress(progress),
            outline=outline,
        )


def _weights_progress(progress: Progress | None) -> Callable[[str, int, int], None] | None:
    if progress is None:
        return None
    return lambda _name, done, total: progress("weights", done, total)
