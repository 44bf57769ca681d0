"""The step loop: schedule, execute, commit. One thread uses an EngineCore; it is the sole mutator of scheduler and KV."""

import hashlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from fastserve._C.kv import KvManager, Tier
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler, StepEvents, StepPlan
from fastserve.config import EngineConfig
from fastserve.engine.changes import PendingChanges
from fastserve.engine.outputs import engine_outputs
from fastserve.engine.pacing import LONGEST_WAIT_S, PLANNING_SHARE, WAIT_STEP_S
from fastserve.engine.profiler import measured_latency_model
from fastserve.engine.request import EngineRequest
from fastserve.engine.waiting_forms import WaitingForms, WaitingRequest
from fastserve.errors import DeviceError, DeviceLostError, InvalidArgumentError, OverloadedError, cause_of
from fastserve.executor.base import Executor, PendingStep
from fastserve.executor.choose import open_executor
from fastserve.log import get_logger
from fastserve.logprobs import PromptLogprobs
from fastserve.types import EngineInfo, EngineOutput, EngineStats, FinishReason, SchedulingParams
from fastserve.worker.info import Progress, end_tokens
from fastserve.worker.request_changes import RequestStart
from fastserve.worker.step_output import StepOutput

logger = get_logger(__name__)

MAX_FAILED_STEPS = 3  # consecutive iterations that may fail before the engine gives up


@dataclass(slots=True)
class StepResult:
    """What one step of the engine did.

    Attributes:
        events: tokens and finished requests since the step before.
        plan, output: the iteration that ended and its result; None when no iteration ended, or it failed.
        error: why it failed.
    """

    events: StepEvents
    plan: StepPlan | None = None
    output: StepOutput | None = None
    error: str | None = None


@dataclass(slots=True)
class _Running:
    """A plan under way; when it began, seconds of the core's clock, and how long it should take."""

    plan: StepPlan
    result: PendingStep
    started_s: float
    expected_s: float


@dataclass(slots=True)
class _Counters:
    """The counters of EngineStats that the core keeps."""

    iterations: int = 0
    iteration_tokens: int = 0
    schedule_s: float = 0.0
    execute_s: float = 0.0
    offload_bytes: int = 0
    upload_bytes: int = 0


class EngineCore:
    """Scheduler and executor. All times that the scheduler gets are monotonic seconds of one clock."""

    def __init__(
        self,
        config: EngineConfig,
        executor: Executor,
        latency: LatencyModel,
        *,
        clock: Callable[[], float] = time.monotonic,
        policy: object | None = None,
    ) -> None:
        """Make the scheduler of an executor; `latency` must be for this core alone, which goes on correcting it.

        Args:
            policy: a `fastserve.sim.Policy` in place of the one that the configuration names.

        Raises:
            InvalidArgumentError: the configuration is out of the scheduler's range.
        """
        info = executor.info
        scheduler = config.scheduler
        self._config = config
        self._clock = clock
        self.executor = executor
        self.latency = latency
        self.kv = KvManager(
            block_size=config.cache.block_size,
            num_device_blocks=info.pools.num_device_blocks,
            num_host_blocks=info.pools.num_host_blocks,
            enable_prefix_caching=config.cache.enable_prefix_caching,
        )
        core = scheduler.core()
        core.max_model_len, core.block_bytes = info.max_model_len, info.pools.block_bytes
        core.num_stages = config.parallel.pipeline_parallel_size
        self.scheduler = Scheduler(core, self.kv, latency, policy)
        if info.offload_bytes_per_s and info.upload_bytes_per_s:
            self.scheduler.set_link_rates(info.offload_bytes_per_s, info.upload_bytes_per_s)
        self.info = EngineInfo(
            model=config.model.model,
            max_model_len=info.max_model_len,
            vocab_size=info.vocab_size,
            eos_token_ids=end_tokens(info.eos_token_ids, config.eos_token_ids, info.vocab_size),
            dtype=info.dtype,
            device=info.device,
            block_size=config.cache.block_size,
            num_device_blocks=info.pools.num_device_blocks,
            num_host_blocks=info.pools.num_host_blocks,
            block_bytes=info.pools.block_bytes,
            scheduling_policy=scheduler.policy,
            max_num_seqs=scheduler.max_num_seqs,
            attention_backend=info.attention_backend,
            kernel_fallback=info.kernel_fallback,
        )
        self._num_stages = config.parallel.pipeline_parallel_size
        self._running: deque[_Running] = deque()  # the oldest first
        self._stages_wait = False  # for requests: some have no plan, as nothing more could be planned
        self._changes = PendingChanges()
        self._waiting_forms = WaitingForms(executor.prepare_form)
        self._ended_waiting: list[EngineOutput] = []  # of requests that ended before they joined the scheduler
        self._failed_steps = 0
        self._failures: dict[int, str] = {}  # requests that are being ended because of an error, and which
        self._prompt_logprobs: dict[int, list[PromptLogprobs]] = {}  # of requests that have had no output
        self._next_seed = config.model.seed
        self._counters = _Counters()

    @classmethod
    def from_config(cls, config: EngineConfig, *, progress: Progress | None = None) -> "EngineCore":
        """Load the model, measure (or read) the latency model, make the scheduler.

        Args:
            progress: called as progress(stage, done, total) while weights load and the profile is measured.
        Raises:
            InvalidArgumentError: the configuration does not fit the model or the machine.
            CheckpointError: the checkpoint cannot be used.
        """
        if config.scheduler.policy == "srpt":
            raise InvalidArgumentError(
                "scheduling_policy srpt needs to know output lengths and runs in the simulator only: use learned"
            )
        executor = open_executor(config, progress)
        try:
            return cls(config, executor, measured_latency_model(config, executor, progress))
        except BaseException:
            executor.stop()
            raise

    def add_request(self, request: EngineRequest) -> None:
        """Queue a request. One whose output has a form that is yet to be compiled joins the scheduler when it is.

        Raises:
            InvalidArgumentError: the request can never run (prompt too long, token id out of range). A form that cannot be
                used is an error of the request's output.
            OverloadedError: max_num_queued_reqs requests are unfinished.
        """
        limit = self._config.scheduler.max_num_queued_reqs
        if self.scheduler.num_unfinished + len(self._waiting_forms) >= limit:
            raise OverloadedError(
                f"the engine holds at most {limit} unfinished requests (--max-num-queued-reqs): try again later"
            )
        prompt = np.asarray(request.prompt_token_ids, np.int32)
        if prompt.min() < 0 or prompt.max() >= self.info.vocab_size:
            bad = int(prompt.min()) if prompt.min() < 0 else int(prompt.max())
            raise InvalidArgumentError(f"token ids must be between 0 and {self.info.vocab_size - 1}, got {bad}")
        form, now_s = request.sampling.structured_outputs, self._clock()
        if form is not None and not self._waiting_forms.knows(form):
            self._waiting_forms.add(WaitingRequest(request, now_s, form))
        else:
            self._join(request, prompt, now_s)

    def _join(self, request: EngineRequest, prompt: np.ndarray, arrived_s: float) -> None:
        """Give a request to the scheduler; raises InvalidArgumentError when it can never run."""
        sampling, has_form = request.sampling, request.sampling.structured_outputs is not None
        room = max(1, self.info.max_model_len - len(prompt))
        asked = room if sampling.max_tokens is None else sampling.max_tokens
        # Where no output is wanted a prefill still ends in a token, which the frontend leaves out.
        max_tokens, seed = max(1, min(asked, room)), self._seed(sampling.seed)
        scheduling = _scheduling_options(request.scheduling, arrived_s)
        if sampling.prompt_logprobs is not None:
            # No prefix of another request: what is cached has no logits. Its own, after it was dropped, were read before.
            scheduling["cache_salt"] = _hashed(f"prompt_logprobs of {request.request_id}")
        ends = () if sampling.ignore_eos else self.info.eos_token_ids
        options = RequestOptions(
            max_tokens=max_tokens,
            # The end of a form ends the output; the worker holds end tokens back for as long as it may.
            min_tokens=0 if has_form else sampling.min_tokens,
            ignore_eos=sampling.ignore_eos and not has_form,
            eos_token_ids=self.info.eos_token_ids,
            stop_token_ids=sampling.stop_token_ids,
            **scheduling,
        )
        slot = self.scheduler.add(request.request_id, prompt, options, now_s=self._clock())
        self._stages_wait = False
        if sampling.prompt_logprobs is not None:
            self._prompt_logprobs[request.request_id] = []
        self._changes.start(
            RequestStart(
                slot=slot,
                prompt=prompt,
                max_total_tokens=len(prompt) + max_tokens,
                sampling=sampling,
                seed=seed,
                stop_token_ids=(*ends, *sampling.stop_token_ids),
                bad_word_ids=request.bad_word_ids,
            )
        )

    def abort(self, request_id: int) -> None:
        """Abort a request; its last output is still delivered. Unknown ids are ignored."""
        if self._waiting_forms.remove(request_id):
            self._ended_waiting.append(EngineOutput(request_id=request_id, finish_reason=FinishReason.ABORT))
        else:
            self.scheduler.abort(request_id, self._clock())

    def stop(self, request_id: int, num_tokens: int) -> None:
        """Stop a request whose output contains a stop string; its first `num_tokens` tokens are the answer.

        Its last output still comes. Unknown ids are ignored.

        Raises:
            InvalidArgumentError: it has fewer outputs.
        """
        self.scheduler.stop(request_id, num_tokens, self._clock())

    def planning_delay_s(self) -> float:
        """Return for how many seconds to accept new requests before step() should plan the next iteration.

        Whole milliseconds, as long as one can wait for messages; 0 also where the time left is too short to wait for.
        """
        if not self._running or self._running[0].result.done():
            return 0.0
        if self._num_stages > 1 and not self._stages_wait:
            return 0.0
        elapsed_s = self._clock() - self._running[0].started_s
        delay_s = PLANNING_SHARE * self._running[0].expected_s - elapsed_s
        return max(0.0, delay_s // WAIT_STEP_S * WAIT_STEP_S)

    def step(self) -> list[EngineOutput]:
        """Run one step and return what it did for each request."""
        if self._waiting_forms:
            self._admit()
        ended, self._ended_waiting = self._ended_waiting, []
        result = self.run_step()
        return [*ended, *self.outputs_of(result, self._clock())]

    def run_step(self) -> StepResult:
        """Plan iterations while others run, then wait for the oldest one and commit it."""
        if self._num_stages > 1:
            self._fill_stages()
            return self._finish(self._running.popleft()) if self._running else StepResult(self.scheduler.take_events())
        running = self._running.popleft() if self._running else None
        if running is not None and not self._config.scheduler.async_scheduling:
            return self._finish(running)
        plan = self._schedule()
        started = self._start(plan)
        if started is not None:
            self._running.append(started)
        result = self._finish(running) if running is not None else StepResult(self.scheduler.take_events())
        if started is None:
            self._wait_or_drop(plan)
        elif running is not None:
            started.started_s = self._clock()
        return result

    def outputs_of(self, result: StepResult, now_s: float) -> list[EngineOutput]:
        """Return what the latest step did for each request; a request whose output cannot be made fails."""
        made = engine_outputs(
            self.scheduler, result.events, result.output, now_s, failures=self._failures, step_error=result.error
        )
        for request_id, why in made.failed:
            self._fail(request_id, why)
        return (
            [self._with_prompt_logprobs(output) for output in made.outputs] if self._prompt_logprobs else made.outputs
        )

    def has_work(self) -> bool:
        """Whether step() has something to do: unfinished requests, events to deliver, a plan or a copy in flight.

        Raises:
            DeviceLostError: the workers were lost, which can happen while there is nothing to do.
        """
        self.executor.check()
        return (
            bool(self._running)
            or bool(self._waiting_forms or self._ended_waiting)
            or self.scheduler.has_unfinished
            or self.scheduler.num_transfers_in_flight > 0
            or self.scheduler.has_events
        )

    def stats(self) -> EngineStats:
        """Return the current state and counters."""
        scheduler = self.scheduler.stats()
        device, host = self.kv.usage(Tier.DEVICE), self.kv.usage(Tier.HOST)
        counters = self._counters
        return EngineStats(
            iterations=counters.iterations,
            iteration_tokens=counters.iteration_tokens,
            schedule_s=counters.schedule_s,
            execute_s=counters.execute_s,
            offload_bytes=counters.offload_bytes,
            upload_bytes=counters.upload_bytes,
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
            prefix_cache_queries=scheduler.prefix_cache_queries,
            prefix_cache_hits=scheduler.prefix_cache_hits,
            uploads_hit=scheduler.uploads_hit,
            uploads_late=scheduler.uploads_late,
            uploads_wasted=scheduler.uploads_wasted,
            thrash_governor_trips=scheduler.thrash_governor_trips,
        )

    def explain(self, request_id: int) -> dict[str, object] | None:
        """Return why a request is in its state; None when it is unknown or finished."""
        try:
            return self.scheduler.explain(request_id, self._clock())
        except InvalidArgumentError:
            return None

    def close(self) -> None:
        """Stop the executor; may be called again."""
        self.executor.stop()

    def _admit(self) -> None:
        """Have requests join whose form was compiled; wait for one a little where there is nothing else to do."""
        ended = self._ended_waiting
        idle = not self._running and not self.scheduler.has_unfinished and not ended
        for waiting, error in self._waiting_forms.ready(LONGEST_WAIT_S if idle else 0.0):
            request = waiting.request
            try:
                if error is not None:
                    raise error
                self._join(request, np.asarray(request.prompt_token_ids, np.int32), waiting.arrived_s)
            except DeviceLostError:
                raise
            except Exception as refusal:
                why = str(refusal) if isinstance(refusal, InvalidArgumentError) else cause_of(refusal)
                ended.append(EngineOutput(request_id=request.request_id, finish_reason=FinishReason.ERROR, error=why))
        for request in self._waiting_forms.expired(self._clock()):
            why = "deadline_s expired before the form of the output was compiled"
            ended.append(EngineOutput(request_id=request.request_id, finish_reason=FinishReason.DEADLINE, error=why))

    def _fill_stages(self) -> None:
        """Give every stage a plan, as far as there is something to run."""
        self._stages_wait = False
        while len(self._running) < self._num_stages:
            plan = self._schedule()
            started = self._start(plan)
            if started is None:
                self._stages_wait = True
                return self._drop(plan) if self._running else self._wait_or_drop(plan)
            self._running.append(started)

    def _schedule(self) -> StepPlan:
        started_s = self._clock()
        plan = self.scheduler.schedule(started_s)
        self._counters.schedule_s += self._clock() - started_s
        self._changes.end(plan.ended_slots)
        return plan

    def _start(self, plan: StepPlan) -> _Running | None:
        """Queue a plan after the one in flight: the worker starts it without waiting for the engine."""
        if not plan.num_rows and not plan.num_transfers:
            return None
        expected_s = self.latency.iteration_s(*plan.shape) if plan.num_rows else 0.0
        return _Running(plan, self.executor.submit(plan, self._changes.take()), self._clock(), expected_s)

    def _wait_or_drop(self, plan: StepPlan) -> None:
        """A plan without rows and transfers waits for the copies under way; with none it is committed as it is."""
        if not self.scheduler.num_transfers_in_flight:
            return self._drop(plan)
        self._running.append(_Running(plan, self.executor.submit(plan, self._changes.take()), self._clock(), 0.0))

    def _drop(self, plan: StepPlan) -> None:
        self.scheduler.commit(plan.step, np.empty(0, np.int32), 0.0, self._clock())

    def _finish(self, running: _Running) -> StepResult:
        """Wait for an iteration and commit it."""
        output, error = self._result(running)
        started_s = self._clock()
        if output is None:
            self.scheduler.fail_step(running.plan.step, started_s)
        else:
            self._commit(running.plan, output, started_s)
        events = self.scheduler.take_events()
        self._count(running.plan, output)
        self._counters.schedule_s += self._clock() - started_s
        return StepResult(events, running.plan, output, error)

    def _result(self, running: _Running) -> tuple[StepOutput | None, str | None]:
        """Return the output of an iteration, or why it failed."""
        try:
            output = running.result.result()
        except DeviceLostError:  # ends the engine before anything of this iteration or a later one is given out
            raise
        except Exception as error:  # no row is to blame: this iteration fails its requests; the engine goes on
            self._failed_steps += 1
            logger.exception("an iteration of %d requests failed", running.plan.num_rows)
            if self._failed_steps >= MAX_FAILED_STEPS:
                raise DeviceError(f"{MAX_FAILED_STEPS} iterations in a row failed, the last with: {error}") from error
            return None, cause_of(error)
        self._failed_steps = 0
        return output, None

    def _commit(self, plan: StepPlan, output: StepOutput, now_s: float) -> None:
        if output.transfers.ids.size:
            self.scheduler.complete_transfers(output.transfers.ids, output.transfers.ok, now_s)
            self.scheduler.set_link_rates(output.transfers.offload_bytes_per_s, output.transfers.upload_bytes_per_s)
        for message in output.transfers.errors:  # maybe of one rank, whose others end their copies later
            logger.error("a KV copy failed and is taken back: %s", message)
        for row, part in output.prompt_logprobs.items():
            self._take_prompt_logprobs(int(plan.request_ids[row]), part)
        for row, why in output.errors.items():
            self._fail(int(plan.request_ids[row]), why)
        self.scheduler.commit(plan.step, output.sampled, output.elapsed_s if plan.num_rows else 0.0, now_s)

    def _take_prompt_logprobs(self, request_id: int, part: PromptLogprobs) -> None:
        """Keep what a request does not have yet: a part that is computed again is the same again."""
        parts = self._prompt_logprobs.get(request_id)
        if parts is None:
            return
        known = parts[-1].end if parts else 1
        if part.end > known:
            parts.append(part.since(known))

    def _with_prompt_logprobs(self, output: EngineOutput) -> EngineOutput:
        """An output with the log-probabilities of its prompt, if it is the request's first."""
        parts = self._prompt_logprobs.pop(output.request_id, ())
        return replace(output, prompt_logprobs=tuple(parts)) if parts else output

    def _fail(self, request_id: int, why: str) -> None:
        """Fail a request that cannot continue; its last output says `why`."""
        if self.scheduler.fail(request_id, self._clock()):
            logger.error("request %d failed: %s", request_id, why)
            self._failures.setdefault(request_id, why)

    def _count(self, plan: StepPlan, output: StepOutput | None) -> None:
        counters = self._counters
        if plan.num_rows:
            counters.iterations += 1
            counters.iteration_tokens += plan.num_tokens
        if output is None:
            return
        if plan.num_rows:
            counters.execute_s += output.elapsed_s
        counters.offload_bytes += output.transfers.offload_bytes
        counters.upload_bytes += output.transfers.upload_bytes

    def _seed(self, seed: int | None) -> int:
        if seed is None:
            self._next_seed += 1
            seed = int.from_bytes(
                hashlib.blake2b(self._next_seed.to_bytes(9, "little", signed=True), digest_size=8).digest()
            )
        return seed % 2**64


def _scheduling_options(params: SchedulingParams, now_s: float) -> dict[str, int | float]:
    """The fields of `RequestOptions` that carry scheduling parameters: no texts, times of the core's clock, 0 for None."""
    given = {field.name: getattr(params, field.name) for field in fields(params)}
    options = {name: _hashed(value) if isinstance(value, str) else value or 0 for name, value in given.items()}
    if params.deadline_s is not None:
        options["deadline_s"] = now_s + params.deadline_s
    return options


def _hashed(name: str) -> int:
    """Return a 64-bit hash of a name; 0 for none."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) if name else 0
