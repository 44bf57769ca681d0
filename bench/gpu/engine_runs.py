"""Requests through an EngineCore in this process, arriving over time, with the time of every step."""

import dataclasses
import time
from dataclasses import dataclass, field

import numpy as np

from fastserve._C.sched import LatencyModel
from fastserve.config import EngineConfig
from fastserve.engine.core import EngineCore
from fastserve.engine.request import EngineRequest
from fastserve.types import SamplingParams
from fastserve.workload import lognormal_lengths, poisson_arrivals

SEED = 3
IDLE_S = 0.0005
LEAST_STEPS = 5


@dataclass(frozen=True, slots=True)
class Load:
    """Requests: when they arrive, seconds, and how long prompt and output are, tokens."""

    arrival_s: np.ndarray
    prompt_len: np.ndarray
    output_len: np.ndarray
    prompts: list[list[int]]


@dataclass(slots=True)
class Steps:
    """Of iterations that followed one another without a pause: seconds, rows, tokens, requests preempted by the step."""

    seconds: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)

    def median_of(self, chosen: np.ndarray) -> float | None:
        """None where too few are chosen."""
        return float(np.median(np.array(self.seconds)[chosen])) if np.sum(chosen) >= LEAST_STEPS else None

    def decodes_of(self, rows: int) -> np.ndarray:
        """Which steps had this many rows of one token each."""
        return (np.array(self.rows) == rows) & (np.array(self.tokens) == rows)

    def preempting_ratio(self) -> float | None:
        """Time of decode steps with which requests were preempted over that of the others."""
        preempted = np.array(self.preempted) > 0
        decodes = np.array(self.rows) == np.array(self.tokens)
        with_it, without = self.median_of(preempted & decodes), self.median_of(~preempted & decodes)
        return None if with_it is None or without is None else with_it / without


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run; arrays per request, seconds from the start."""

    first_token_s: np.ndarray
    end_s: np.ndarray
    duration_s: float
    cpu_s: float
    stats: dict[str, float]
    steps: Steps


COUNTERS = (
    "iterations", "iteration_tokens", "execute_s", "schedule_s", "offload_bytes", "upload_bytes", "preemptions",
    "recomputed_tokens",
)  # fmt: skip


def make_load(count: int, rate: float, *, prompt: float, output: float, longest: int, vocab_size: int) -> Load:
    """Poisson arrivals of log-normal lengths, cut so that prompt + output fits `longest`."""
    rng = np.random.default_rng(SEED)
    arrival_s = poisson_arrivals(rate, count, rng)
    prompt_len = np.minimum(lognormal_lengths(prompt, count, rng), longest * 2 // 3)
    output_len = np.minimum(lognormal_lengths(output, count, rng), longest - prompt_len - 1)
    prompts = [rng.integers(3, vocab_size, n).tolist() for n in prompt_len]
    return Load(arrival_s, prompt_len, np.maximum(output_len, 1), prompts)


def burst(count: int, *, prompt: int, output: int, vocab_size: int) -> Load:
    """Requests of one length, all at once."""
    rng = np.random.default_rng(SEED)
    prompts = rng.integers(3, vocab_size, (count, prompt)).tolist()
    return Load(np.zeros(count), np.full(count, prompt), np.full(count, output), prompts)


class Engine:
    """One loaded model; cores of any policy and any batch size up to that of the configuration take turns on it."""

    def __init__(self, config: EngineConfig) -> None:
        started_s = time.monotonic()
        core = EngineCore.from_config(config)
        self.start_s = time.monotonic() - started_s
        self._config = config
        self.executor = core.executor
        self.info = core.info
        self._coefficients = list(core.latency.coefficients())

    def core(self, policy: str, max_num_seqs: int) -> EngineCore:
        """A new scheduler and empty pools."""
        scheduler = dataclasses.replace(self._config.scheduler, scheduling_policy=policy, max_num_seqs=max_num_seqs)
        config = dataclasses.replace(self._config, scheduler=scheduler)
        return EngineCore(config, self.executor, LatencyModel(self._coefficients))

    def time_decode(self, rows: int, context: int) -> float:
        """Seconds of the forward pass of a decode step on an idle device; overwrites KV."""
        shape = {"prefill_tokens": 0, "prefill_ctx": 0, "num_decodes": rows, "decode_ctx": context}
        return min(self.executor.time_iteration(**shape) for _ in range(5))

    def time_prefill(self, tokens: int) -> float:
        """Seconds of the forward pass of a prompt."""
        shape = {"prefill_tokens": tokens, "prefill_ctx": 0, "num_decodes": 0, "decode_ctx": 0}
        return min(self.executor.time_iteration(**shape) for _ in range(3))

    def close(self) -> None:
        """Stop."""
        self.executor.stop()


def serve(core: EngineCore, load: Load) -> Outcome:
    """Feed the requests at their times and step until all have ended and no copy is under way."""
    count = len(load.arrival_s)
    first_token_s, end_s = np.full(count, np.nan), np.full(count, np.nan)
    steps, before = Steps(), core.stats()
    started_s, cpu_started_s, added, ended = time.monotonic(), time.process_time(), 0, 0
    last_s: float | None = None
    while ended < count or core.has_work():
        now_s = time.monotonic() - started_s
        while added < count and load.arrival_s[added] <= now_s:
            sampling = SamplingParams(temperature=0.0, max_tokens=int(load.output_len[added]), ignore_eos=True)
            core.add_request(EngineRequest.of(added, load.prompts[added], sampling))
            added += 1
        if not core.has_work():
            last_s = None
            time.sleep(IDLE_S)
            continue
        if delay_s := core.planning_delay_s():
            time.sleep(min(delay_s, IDLE_S))
            continue
        preempted = core.scheduler.stats().preemptions
        result = core.run_step()
        outputs = core.outputs_of(result, time.monotonic())
        now_s = time.monotonic() - started_s
        if result.plan is not None and result.plan.num_rows:
            if last_s is not None:
                steps.seconds.append(now_s - last_s)
                steps.rows.append(result.plan.num_rows)
                steps.tokens.append(result.plan.num_tokens)
                steps.preempted.append(core.scheduler.stats().preemptions - preempted)
            last_s = now_s
        for output in outputs:
            if output.token_ids and np.isnan(first_token_s[output.request_id]):
                first_token_s[output.request_id] = now_s
            if output.finish_reason is not None:
                if output.finish_reason != "length":
                    why = f"request {output.request_id} ended with {output.finish_reason}"
                    raise RuntimeError(f"{why}: {output.error}" if output.error else why)
                end_s[output.request_id] = now_s
                ended += 1
    duration_s = float(end_s.max())
    after = core.stats()
    stats = {name: getattr(after, name) - getattr(before, name) for name in COUNTERS}
    return Outcome(first_token_s, end_s, duration_s, time.process_time() - cpu_started_s, stats, steps)


def row_of(policy: str, load: Load, outcome: Outcome) -> dict[str, object]:
    """One result: latencies in seconds, throughput, and what the engine did, with every raw sample."""
    first_s = outcome.first_token_s - load.arrival_s
    per_token_s = (outcome.end_s - load.arrival_s) / load.output_len
    return {
        "policy": policy,
        "requests": len(load.arrival_s),
        "output_tokens_per_s": float(load.output_len.sum() / outcome.duration_s),
        "first_token_mean_s": float(first_s.mean()),
        "first_token_p90_s": float(np.quantile(first_s, 0.9)),
        "token_latency_mean_s": float(per_token_s.mean()),
        "token_latency_p90_s": float(np.quantile(per_token_s, 0.9)),
        "duration_s": outcome.duration_s,
        "cpu_s": outcome.cpu_s,
        "preempting_step_ratio": outcome.steps.preempting_ratio(),
        **outcome.stats,
        "first_token_s": first_s.tolist(),
        "token_latency_s": per_token_s.tolist(),
    }
