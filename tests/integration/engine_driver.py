"""Drive a real EngineCore step by step on a tiny checkpoint, with parking and faults forced from outside."""

import dataclasses
import time
from collections.abc import Callable, Sequence

import numpy as np

from fastserve.config import CacheConfig, EngineConfig, ModelConfig, ParallelConfig, SchedulerConfig
from fastserve.engine.core import EngineCore
from fastserve.engine.request import EngineRequest
from fastserve.types import EngineOutput, SamplingParams, SchedulingParams
from tests import core_internals
from tests.checkpoints import VOCAB_SIZE, tiny_checkpoint

GREEDY = SamplingParams(temperature=0.0, max_tokens=24, ignore_eos=True)
MAX_STEPS = 20_000


def engine_config(**changes: object) -> EngineConfig:
    """A small engine on the tiny Llama, on the CPU also where there is a GPU; keyword arguments replace fields of any config."""
    model = {
        "model": str(tiny_checkpoint("llama")),
        "device": "cpu",
        "dtype": "float32",
        "max_model_len": 256,
        "num_threads": 2,
    }
    cache = {
        "num_gpu_blocks_override": 64,
        "num_host_blocks_override": 256,
        "kv_canary": True,
        "enable_prefix_caching": False,
    }
    scheduler = {
        "max_num_seqs": 8,
        "max_prefill_chunk_tokens": 32,
        "max_num_batched_tokens": 128,
        "starvation_limit_s": 0.2,
    }
    parts = []
    for config_class, defaults in (
        (ModelConfig, model),
        (CacheConfig, cache),
        (ParallelConfig, {}),
        (SchedulerConfig, scheduler),
    ):
        names = {f.name for f in dataclasses.fields(config_class)}
        parts.append(config_class(**(defaults | {k: v for k, v in changes.items() if k in names})))
    return EngineConfig(model=parts[0], cache=parts[1], parallel=parts[2], scheduler=parts[3])


def random_prompts(count: int, *, seed: int = 0, low: int = 3, high: int = 70) -> list[list[int]]:
    """Prompts of random ids, lengths in [low, high)."""
    rng = np.random.default_rng(seed)
    return [rng.integers(3, VOCAB_SIZE, rng.integers(low, high)).tolist() for _ in range(count)]


class Driver:
    """Collects the outputs of an engine and lets a test act between steps."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.tokens: dict[int, list[int]] = {}
        self.last: dict[int, EngineOutput] = {}
        self.steps = 0

    def add(
        self,
        request_id: int,
        prompt: Sequence[int],
        sampling: SamplingParams = GREEDY,
        *,
        bad_word_ids: tuple[tuple[int, ...], ...] = (),
        **fields: object,
    ) -> None:
        self.tokens[request_id] = []
        request = EngineRequest.of(request_id, prompt, sampling, SchedulingParams(**fields))
        self.core.add_request(dataclasses.replace(request, bad_word_ids=bad_word_ids))

    @property
    def unfinished(self) -> list[int]:
        return [request_id for request_id in self.tokens if request_id not in self.last]

    def run(self, between_steps: Callable[["Driver"], None] | None = None, *, max_steps: int = MAX_STEPS) -> None:
        """Step until nothing is left to do."""
        while self.core.has_work():
            if between_steps is not None:
                between_steps(self)
            self.step()
            assert self.steps < max_steps, f"no end in sight: {self.unfinished} after {self.steps} steps"

    def step(self) -> list[EngineOutput]:
        """One step of the core; returns its outputs as well."""
        self.steps += 1
        outputs = self.core.step()
        for output in outputs:
            self.tokens[output.request_id].extend(output.token_ids)
            if output.finish_reason is not None:
                assert output.request_id not in self.last, "a request ends once"
                self.last[output.request_id] = output
        return outputs

    def check_drained(self) -> None:
        """Every pool is exact and nothing is held."""
        from fastserve._C.kv import Tier

        self.core.scheduler.check_integrity()
        for tier in (Tier.DEVICE, Tier.HOST):
            usage = self.core.kv.usage(tier)
            assert usage.free + usage.used + usage.in_transfer == usage.total
            assert usage.used == 0
            assert usage.in_transfer == 0


def park_every(k: int) -> Callable[[Driver], None]:
    """Park every unfinished request before each k-th step; it comes back by the usual rules."""

    def act(driver: Driver) -> None:
        if driver.steps % k == 0:
            now_s = time.monotonic()
            for request_id in driver.unfinished:
                core_internals.park(driver.core.scheduler, request_id, False, now_s)

    return act


def run_prompts(prompts: Sequence[Sequence[int]], sampling: SamplingParams = GREEDY, *, between_steps=None,
                prepare: Callable[[EngineCore], None] | None = None, bad_word_ids: tuple[tuple[int, ...], ...] = (),
                **changes: object) -> list[list[int]]:  # fmt: skip
    """Tokens of every prompt, run together through one engine, which must be empty afterwards."""
    core = EngineCore.from_config(engine_config(**changes))
    try:
        if prepare is not None:
            prepare(core)
        driver = Driver(core)
        for request_id, prompt in enumerate(prompts):
            driver.add(request_id, prompt, sampling, bad_word_ids=bad_word_ids)
        driver.run(between_steps)
        driver.check_drained()
        return [driver.tokens[request_id] for request_id in range(len(prompts))]
    finally:
        core.close()
