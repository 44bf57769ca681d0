"""The step loop: schedule, execute, commit. One thread uses an EngineCore; it is the sole mutator of scheduler and KV."""

import hashlib
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace

import numpy as np

from fastserve._C import num_threads
from fastserve._C.kv import KvManager, Tier
from fastserve._C.sched import LatencyModel, Scheduler, StepPlan
from fastserve.config import EngineConfig
from fastserve.engine.outputs import engine_outputs
from fastserve.engine.profiler import profile_path, profile_samples, read_profile, write_profile
from fastserve.errors import DeviceError, InvalidArgumentError, OverloadedError
from fastserve.executor import InprocExecutor
from fastserve.log import get_logger
from fastserve.types import EngineInfo, EngineOutput, EngineRequest, EngineStats
from fastserve.worker import StepOutput, TransferResults, Transfers
from fastserve.worker.worker import Progress

logger = get_logger(__name__)

# The next plan is made after this share of the time that the running iteration should take. Later would let a few more new
# requests in; but an iteration that ends early would leave the worker idle, and the estimate is good to some 20 %.
PLANNING_SHARE = 0.7
MAX_FAILED_STEPS = 3  # consecutive iterations that may fail before the engine gives up


@dataclass(frozen=True, slots=True)
class _Running:
    """A plan under way; when it began, monotonic seconds, and how long it should take."""

    plan: StepPlan
    result: "Future[StepOutput]"
    started_s: float
    expected_s: float


class EngineCore:
    """Scheduler + executor. Times given to the scheduler are `time.monotonic()`."""

    def __init__(self, config: EngineConfig, executor: InprocExecutor, latency: LatencyModel) -> None:
        info = executor.info
        scheduler = config.scheduler
        if scheduler.scheduling_policy == "srpt":
            raise InvalidArgumentError(
                "scheduling_policy srpt needs to know output lengths and runs in the simulator only: use skip-join-mlfq"
            )
        self._config = config
        self.executor = executor
        self.latency = latency
        self.kv = KvManager(
            block_size=config.cache.block_size,
            num_device_blocks=info.pools.num_device_blocks,
            num_host_blocks=info.pools.num_host_blocks,
            enable_prefix_caching=config.cache.enable_prefix_caching,
        )
        self.scheduler = Scheduler(
            self.kv,
            latency,
            policy=scheduler.scheduling_policy,
            max_num_seqs=scheduler.max_num_seqs,
            max_num_batched_tokens=scheduler.max_num_batched_tokens,
            max_prefill_chunk_tokens=scheduler.max_prefill_chunk_tokens,
            max_model_len=info.max_model_len,
            starvation_limit_s=scheduler.starvation_limit_s,
            quantum_ratio=scheduler.quantum_ratio,
            first_quantum_s=scheduler.first_quantum_s or 0.0,
            num_levels=scheduler.num_levels or 0,
            preemption_mode=scheduler.preemption_mode,
            proactive_offload=scheduler.proactive_offload,
            write_through=scheduler.write_through,
            reserve_iterations=scheduler.reserve_iterations,
            max_parks_per_request=scheduler.max_parks_per_request,
            thrash_parks_per_finish=scheduler.thrash_parks_per_finish,
            block_bytes=float(info.pools.block_bytes),
        )
        self.info = EngineInfo(
            model=config.model.model,
            max_model_len=info.max_model_len,
            vocab_size=info.vocab_size,
            eos_token_ids=info.eos_token_ids,
            dtype=info.dtype,
            device=info.device,
            block_size=config.cache.block_size,
            num_device_blocks=info.pools.num_device_blocks,
            num_host_blocks=info.pools.num_host_blocks,
            block_bytes=info.pools.block_bytes,
            scheduling_policy=scheduler.scheduling_policy,
            max_num_seqs=scheduler.max_num_seqs,
        )
        self._running: _Running | None = None
        self._failed_steps = 0
        self._next_seed = config.model.seed
        self._counters = EngineStats()

    @classmethod
    def from_config(cls, config: EngineConfig, *, progress: Progress | None = None) -> "EngineCore":
        """Load the model, measure (or read) the latency model, make the scheduler.

        Args:
            progress: called as progress(stage, done, total) while weights load and the profile is measured.
        """
        executor = InprocExecutor(config, progress)
        try:
            return cls(config, executor, _latency_model(config, executor, progress))
        except BaseException:
            executor.stop()
            raise

    @property
    def transfers(self) -> Transfers:
        """The worker's transfers, for fault injection and their counters."""
        return self.executor.worker.transfers

    def add_request(self, request: EngineRequest) -> None:
        """Queue a request.

        Raises:
            InvalidArgumentError: the request can never run (prompt too long, token id out of range).
            OverloadedError: max_num_queued_reqs requests are unfinished.
        """
        limit = self._config.scheduler.max_num_queued_reqs
        if self.scheduler.num_unfinished >= limit:
            raise OverloadedError(
                f"the engine holds at most {limit} unfinished requests (--max-num-queued-reqs): try again later"
            )
        prompt = np.asarray(request.prompt_token_ids, np.int32)
        if prompt.min() < 0 or prompt.max() >= self.info.vocab_size:
            bad = int(prompt.min()) if prompt.min() < 0 else int(prompt.max())
            raise InvalidArgumentError(f"token ids must be between 0 and {self.info.vocab_size - 1}, got {bad}")
        sampling, now_s = request.sampling, time.monotonic()
        self.scheduler.add(
            request.request_id,
            prompt,
            now_s=now_s,
            max_tokens=sampling.max_tokens or self.info.max_model_len,
            min_tokens=sampling.min_tokens,
            ignore_eos=sampling.ignore_eos,
            eos_token_ids=self.info.eos_token_ids,
            stop_token_ids=sampling.stop_token_ids,
            priority=request.priority,
            cache_salt=_salt(request.cache_salt),
            deadline_s=0.0 if request.deadline_s is None else now_s + request.deadline_s,
            temperature=sampling.temperature,
            top_k=max(sampling.top_k, 0),
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            seed=self._seed(sampling.seed),
            num_logprobs=-1 if sampling.logprobs is None else sampling.logprobs,
        )

    def abort(self, request_id: int) -> None:
        """End a request; its last output still comes. Unknown ids are ignored."""
        self.scheduler.abort(request_id, time.monotonic())

    def planning_delay_s(self) -> float:
        """How long new requests may still be taken in before step() should plan the next iteration, seconds."""
        if self._running is None or self._running.result.done():
            return 0.0
        elapsed_s = time.monotonic() - self._running.started_s
        return max(0.0, PLANNING_SHARE * self._running.expected_s - elapsed_s)

    def step(self) -> list[EngineOutput]:
        """One turn: plan the next iteration behind the one under way, then wait for that one and commit it."""
        running = self._running
        if running is not None and not self._config.scheduler.async_scheduling:
            self._running = None
            return self._finish(running)
        started_s = time.monotonic()
        plan = self.scheduler.schedule(started_s)
        self._add_schedule_s(time.monotonic() - started_s)
        self._running = self._start(plan)
        outputs = self._finish(running) if running is not None else self._outputs(None, None)
        if self._running is None:
            self._running = self._start_or_drop(plan)
        elif running is not None:
            self._running = replace(self._running, started_s=time.monotonic())
        return outputs

    def has_work(self) -> bool:
        """Whether step() has something to do: unfinished requests, a plan under way or a copy under way."""
        return self._running is not None or self.scheduler.has_unfinished or self.scheduler.num_transfers_in_flight > 0

    def stats(self) -> EngineStats:
        """State and counters now."""
        scheduler = self.scheduler.stats()
        device, host = self.kv.usage(Tier.DEVICE), self.kv.usage(Tier.HOST)
        prefix = self.kv.prefix_cache_stats()
        return replace(
            self._counters,
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_parked_device=scheduler.num_parked_device,
            num_parked_host=scheduler.num_parked_host,
            level_requests=tuple(scheduler.level_requests),
            device_usage=1.0 - device.free / device.total,
            host_usage=1.0 - host.free / host.total if host.total else 0.0,
            preemptions=scheduler.preemptions,
            promotions=scheduler.promotions,
            demotions=scheduler.demotions,
            recomputed_tokens=scheduler.recomputed_tokens,
            prefix_cache_queries=prefix.queried_tokens,
            prefix_cache_hits=prefix.hit_tokens,
            uploads_hit=scheduler.uploads_hit,
            uploads_late=scheduler.uploads_late,
            uploads_wasted=scheduler.uploads_wasted,
            thrash_governor_trips=scheduler.thrash_governor_trips,
        )

    def explain(self, request_id: int) -> dict | None:
        """Why a request is where it is; None when it is unknown or finished."""
        try:
            return self.scheduler.explain(request_id, time.monotonic())
        except InvalidArgumentError:
            return None

    def close(self) -> None:
        """Stop the executor; may be called again."""
        self.executor.stop()

    def _start(self, plan: StepPlan) -> _Running | None:
        """Queue a plan behind the one under way: the worker goes from one to the next without asking."""
        if not plan.num_rows and not plan.num_transfers:
            return None
        expected_s = _expected_s(self.latency, plan) if plan.num_rows else 0.0
        return _Running(plan, self.executor.submit(plan), time.monotonic(), expected_s)

    def _start_or_drop(self, plan: StepPlan) -> _Running | None:
        """A plan without rows and transfers waits for the copies under way; with none it is committed as it is."""
        if self.scheduler.num_transfers_in_flight:
            return _Running(plan, self.executor.submit(plan), time.monotonic(), 0.0)
        self.scheduler.commit(plan.step, np.empty(0, np.int32), 0.0, time.monotonic())
        return None

    def _finish(self, running: _Running) -> list[EngineOutput]:
        """Wait for an iteration and commit it."""
        output = self._result(running)
        started_s = time.monotonic()
        if output is None:
            self.scheduler.fail_step(running.plan.step, started_s)
        else:
            self._commit(running.plan, output, started_s)
        outputs = self._outputs(running.plan, output)
        self._count(running.plan, output)
        self._add_schedule_s(time.monotonic() - started_s)
        return outputs

    def _outputs(self, plan: StepPlan | None, output: StepOutput | None) -> list[EngineOutput]:
        return engine_outputs(self.scheduler, plan, output, time.monotonic())

    def _result(self, running: _Running) -> StepOutput | None:
        try:
            output = running.result.result()
        except Exception as error:  # one bad iteration fails its own requests; the engine goes on
            self._failed_steps += 1
            logger.exception("an iteration of %d requests failed", running.plan.num_rows)
            if self._failed_steps >= MAX_FAILED_STEPS:
                raise DeviceError(f"{MAX_FAILED_STEPS} iterations in a row failed, the last with: {error}") from error
            return None
        self._failed_steps = 0
        return output

    def _commit(self, plan: StepPlan, output: StepOutput, now_s: float) -> None:
        if output.transfers.ids.size:
            self.scheduler.complete_transfers(output.transfers.ids, output.transfers.ok, now_s)
            self.scheduler.set_link_rates(output.transfers.offload_bytes_per_s, output.transfers.upload_bytes_per_s)
            for message in output.transfers.errors:
                logger.error("a KV copy failed and is taken back: %s", message)
        self.scheduler.commit(plan.step, output.sampled, output.elapsed_s if plan.num_rows else 0.0, now_s)

    def _count(self, plan: StepPlan, output: StepOutput | None) -> None:
        counters = self._counters
        transfers = output.transfers if output is not None else TransferResults()
        self._counters = replace(
            counters,
            iterations=counters.iterations + (1 if plan.num_rows else 0),
            iteration_tokens=counters.iteration_tokens + plan.num_tokens,
            execute_s=counters.execute_s + (output.elapsed_s if output is not None and plan.num_rows else 0.0),
            offload_bytes=counters.offload_bytes + transfers.offload_bytes,
            upload_bytes=counters.upload_bytes + transfers.upload_bytes,
        )

    def _add_schedule_s(self, seconds: float) -> None:
        self._counters = replace(self._counters, schedule_s=self._counters.schedule_s + seconds)

    def _seed(self, seed: int | None) -> int:
        if seed is None:
            self._next_seed += 1
            seed = int.from_bytes(
                hashlib.blake2b(self._next_seed.to_bytes(9, "little", signed=True), digest_size=8).digest()
            )
        return seed % 2**64


def _expected_s(latency: LatencyModel, plan: StepPlan) -> float:
    """Predicted wall time of a plan with rows, seconds."""
    decodes = plan.num_decode_rows
    query = np.diff(plan.query_start[decodes:]).astype(np.int64)
    context = plan.seq_lens[decodes:] - query
    pairs = query * context + query * (query + 1) // 2
    return latency.iteration_s(int(query.sum()), int(pairs.sum()), decodes, int(plan.seq_lens[:decodes].sum()))


def _salt(cache_salt: str) -> int:
    return int.from_bytes(hashlib.blake2b(cache_salt.encode(), digest_size=8).digest()) if cache_salt else 0


def _latency_model(config: EngineConfig, executor: InprocExecutor, progress: Progress | None) -> LatencyModel:
    info = executor.info
    path = profile_path(config.model.model, info.dtype, info.device, num_threads())
    if (coefficients := read_profile(path)) is not None:
        return LatencyModel(coefficients)
    if progress is not None:
        progress("profile", 0, 1)
    model = LatencyModel()
    samples = profile_samples(
        executor.time_iteration,
        max_model_len=info.max_model_len,
        max_tokens=min(config.scheduler.max_prefill_chunk_tokens, config.scheduler.max_num_batched_tokens),
        max_num_seqs=config.scheduler.max_num_seqs,
        num_blocks=info.pools.num_device_blocks,
        block_size=config.cache.block_size,
    )
    model.fit(samples)
    write_profile(path, list(model.coefficients()))
    if progress is not None:
        progress("profile", 1, 1)
    return model
