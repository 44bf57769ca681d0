"""Runs a workload through the engine's own loop, scheduler and KV manager on a virtual clock."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fastserve._C.sched import RequestOptions
from fastserve.config import LEARNING, SchedulerConfig
from fastserve.engine.core import StepResult
from fastserve.engine.pacing import LONGEST_WAIT_S
from fastserve.errors import InvalidArgumentError
from fastserve.sim.deployment import Deployment
from fastserve.sim.engine import simulated_engine
from fastserve.sim.gaps import TokenGaps
from fastserve.sim.learned import LengthClass, length_classes
from fastserve.sim.policy import Policy
from fastserve.sim.requests import RequestTable
from fastserve.sim.summary import RunCounters, Summary, summarize
from fastserve.sim.timeline import Timeline
from fastserve.sim.tokens import TokenSource, token_source
from fastserve.workload import Workload

# Called as progress(finished requests, all requests) every STEPS_PER_REPORT steps, and at the end.
Progress = Callable[[int, int], None]
STEPS_PER_REPORT = 512
# While a policy of one's own starts nothing, time passes in steps of IDLE_S, after a few steps that may just be quick ones.
QUICK_STEPS = 8
IDLE_S = 0.01
MOST_IDLE_STEPS = 10_000
# What ends a request: max_tokens with ignore_eos, so that its length is known; max_tokens, where it would have gone on;
# or what is not known beforehand, a stop token or a stop string, which the server finds and tells the engine.
Endings = Literal["known", "max-tokens", "stop-token", "stop-string"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """Result of a simulated run.

    Attributes:
        workload, deployment: names.
        policy: that ran it.
        requests: what became of each.
        summary: in a few numbers.
        length_classes: what the policy `learned` knew in the end; empty for the others.
    """

    workload: str
    deployment: str
    policy: str
    requests: RequestTable
    summary: Summary
    length_classes: tuple[LengthClass, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Names and summary as plain values, for JSON."""
        return {
            "workload": self.workload,
            "deployment": self.deployment,
            "policy": self.policy,
            "summary": self.summary.to_dict(),
        }


def simulate(
    workload: Workload,
    deployment: Deployment,
    scheduler: SchedulerConfig | None = None,
    *,
    policy: Policy | None = None,
    enable_prefix_caching: bool | None = None,
    endings: Endings | None = None,
    objectives_s: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    timeline: Timeline | None = None,
) -> SimulationResult:
    """Run a workload to its end. The same arguments give the same result, bit for bit.

    Args:
        scheduler: its fields as an engine takes them; the policy may be `srpt`, which knows the output lengths.
            max_num_queued_reqs does not count: no request is refused for a full queue.
        policy: one of your own, in place of the scheduler's; docs/scheduling.md.
        enable_prefix_caching: default: when the workload has prompts that share prefixes.
        endings: what ends requests. Default: "known", but "stop-token" where the policy would learn from max_tokens
            what it must find out by itself (`learned`).
        objectives_s: limits that a good request keeps, by the columns of the table: goodput counts those.
        progress: called now and then as progress(finished, all).
        timeline: gets every iteration and copy.
    Returns:
        Requests that the engine would refuse as too long are part of the table, unfinished; an output that does not fit
        behind its prompt is cut, as the engine does.
    Raises:
        InvalidArgumentError: the scheduler's configuration is out of range.
        Exception: whatever a policy of your own raises.
    """
    if policy is not None and not isinstance(policy, Policy):
        raise InvalidArgumentError(f"policy must be an object of a class of fastserve.sim.Policy, got {policy!r}")
    scheduler = scheduler or SchedulerConfig()
    policy_name = scheduler.policy if policy is None else type(policy).__name__
    if enable_prefix_caching is None:
        enable_prefix_caching = bool((workload.conversation >= 0).any()) or workload.prompts is not None
    if endings is None:
        endings = "stop-token" if policy_name in LEARNING else "known"
    tokens = token_source(
        workload, deployment.vocab_size, real_prompts=enable_prefix_caching, end_by_token=endings == "stop-token"
    )
    run = _Run(
        workload,
        deployment,
        scheduler,
        tokens,
        policy=policy,
        endings=endings,
        enable_prefix_caching=enable_prefix_caching,
    )
    if timeline is not None:
        run.draw(timeline)
    run.to_the_end(progress)
    return SimulationResult(
        workload=workload.name,
        deployment=deployment.name,
        policy=policy_name,
        requests=run.table,
        summary=summarize(run.table, run.counters(), gaps=run.gaps.distribution(), objectives_s=objectives_s),
        length_classes=run.length_classes(),
    )


class _Run:
    """One run: an EngineCore, its clock, and the requests that have yet to arrive."""

    def __init__(
        self,
        workload: Workload,
        deployment: Deployment,
        scheduler: SchedulerConfig,
        tokens: TokenSource,
        *,
        policy: Policy | None,
        endings: Endings,
        enable_prefix_caching: bool,
    ) -> None:
        engine = simulated_engine(
            deployment, scheduler, tokens.sample, enable_prefix_caching=enable_prefix_caching, policy=policy
        )
        self._core, self._executor, self._clock = engine.core, engine.executor, engine.clock
        self._policy = policy
        self._idle_steps = 0
        self._tokens = tokens
        self._endings = endings
        self.table = RequestTable.of(workload)
        self.gaps = TokenGaps(self.table.longest_pause_s)
        pool_tokens = deployment.pools.num_device_blocks * deployment.block_size
        room = min(deployment.max_model_len, pool_tokens + 1) - workload.prompt_tokens
        self.table.output_tokens[:] = np.clip(room, 0, workload.output_tokens)
        # Plain lists: a million requests are walked through one by one.
        self._arrival_s = workload.arrival_s.tolist()
        self._max_tokens = self.table.output_tokens.tolist()
        self._priority = workload.priority.tolist()
        self._is_oracle = scheduler.policy == "srpt"
        self._options: dict[tuple[int, int], RequestOptions] = {}  # by what distinguishes them
        self._tokens_left = self.table.output_tokens.copy()  # until a stop string
        self._awaits_first = np.ones(len(workload), bool)  # token
        self._next = 0
        self._num_done = 0

    def draw(self, timeline: Timeline) -> None:
        """Give every iteration and copy to a timeline."""
        scheduler = self._core.scheduler
        self._executor.tell(
            lambda plan, start_s, end_s, copies: timeline.add(plan, start_s, end_s, copies, scheduler.stats())
        )

    def counters(self) -> RunCounters:
        """Of the run so far."""
        return RunCounters.of(self._core)

    def to_the_end(self, progress: Progress | None) -> None:
        """Step the core until every request has finished."""
        core, clock = self._core, self._clock
        total, steps = len(self._arrival_s), 0
        while True:
            if not core.has_work():
                if self._next == total:
                    break
                clock.advance_to(self._arrival_s[self._next])
                self._add_arrived(clock.now_s)
                continue
            started_s = clock.now_s
            # As the engine's process does: take requests in while an iteration runs, plan late in it.
            self._add_arrived(clock.now_s)
            delay_s = core.planning_delay_s()
            if delay_s > 0.0:
                # The process looks again after each wait whether the iteration has ended before it should.
                waits = math.ceil((self._executor.end_s - clock.now_s) / LONGEST_WAIT_S)
                planned_s = clock.now_s + min(delay_s, waits * LONGEST_WAIT_S)
                self._add_arrived(planned_s)
                clock.advance_to(planned_s)
            self._collect(core.run_step())
            if self._policy is not None:
                self._pass_idle_time(moved=clock.now_s > started_s)
            steps += 1
            if progress is not None and steps % STEPS_PER_REPORT == 0:
                progress(self._num_done, total)
        if progress is not None:
            progress(self._num_done, total)

    def _pass_idle_time(self, *, moved: bool) -> None:
        """Let time pass where nothing runs because the policy starts nothing: it may do so later."""
        self._idle_steps = 0 if moved else self._idle_steps + 1
        if self._idle_steps < QUICK_STEPS:
            return
        if self._idle_steps > MOST_IDLE_STEPS:
            raise InvalidArgumentError(
                f"the policy {type(self._policy).__name__} started no request for {MOST_IDLE_STEPS * IDLE_S:g} simulated seconds"
                " in which none ran: let may_start return true for one of them"
            )
        self._clock.advance_to(self._clock.now_s + IDLE_S)

    def length_classes(self) -> tuple[LengthClass, ...]:
        """What the policy has learned."""
        return length_classes(self._core.scheduler.length_classes())

    def _add_arrived(self, until_s: float) -> None:
        """Add the requests that arrive up to a time, each at its own."""
        arrival_s, i = self._arrival_s, self._next
        total = len(arrival_s)
        while i < total and arrival_s[i] <= until_s:
            self._clock.advance_to(arrival_s[i])
            self._add(i)
            i += 1
        self._next = i

    def _add(self, i: int) -> None:
        output_tokens = self._max_tokens[i]
        if output_tokens == 0:  # the prompt alone is too long
            self._num_done += 1
            return
        options = self._options_for(output_tokens, self._priority[i])
        self._core.scheduler.add(i, self._tokens.prompt(i), options, now_s=self._clock.now_s)

    def _options_for(self, output_tokens: int, priority: int) -> RequestOptions:
        """The scheduler copies them, so that requests may share them: there are fewer lengths than requests."""
        options = self._options.get((output_tokens, priority))
        if options is None:
            stop_token = self._tokens.stop_token
            is_limit = self._endings in ("known", "max-tokens")
            options = self._options[output_tokens, priority] = RequestOptions(
                max_tokens=output_tokens if is_limit else self._core.info.max_model_len,
                ignore_eos=self._endings != "max-tokens",
                stop_token_ids=() if stop_token is None else (stop_token,),
                priority=priority,
                oracle_output_tokens=output_tokens if self._is_oracle else 0,
            )
        return options

    def _collect(self, result: StepResult) -> None:
        """Note first tokens and ends."""
        events = result.events
        ids = events.request_ids
        if not ids.size:
            return
        now_s = self._clock.now_s
        if self._endings == "stop-string":
            self._find_stop_strings(ids[events.token_ids >= 0])
        self.gaps.add(ids[events.token_ids >= 0], now_s)
        fresh = self._awaits_first[ids]
        if np.count_nonzero(fresh):  # a third of the time of any()
            rows = ids[fresh]
            self._awaits_first[rows] = False
            self.table.first_token_s[rows] = now_s
            self.table.cached_tokens[rows] = events.num_cached_tokens[fresh]
        reasons = events.finish_reasons
        if np.count_nonzero(reasons):
            ended = ids[reasons != 0]
            self.table.finish_s[ended] = now_s
            self._note_ends(ended.tolist(), now_s)

    def _find_stop_strings(self, ids: np.ndarray) -> None:
        """Stop those of these requests, each with one new token, whose answer is complete, as the server does."""
        self._tokens_left[ids] -= 1
        for i in ids[self._tokens_left[ids] == 0].tolist():
            self._core.stop(i, self._max_tokens[i])

    def _note_ends(self, ids: list[int], now_s: float) -> None:
        table, request_stats = self.table, self._core.scheduler.request_stats
        for i in ids:
            stats = request_stats(i, now_s)
            table.queue_s[i] = stats.queue_s
            table.parked_s[i] = stats.parked_s
            table.host_s[i] = stats.host_s
            table.upload_wait_s[i] = stats.upload_wait_s
            table.preemptions[i] = stats.preemptions
            table.recomputed_tokens[i] = stats.recomputed_tokens
        self._num_done += len(ids)
