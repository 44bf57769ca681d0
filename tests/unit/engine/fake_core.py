"""A core without a model: token k of a prompt p is p[k % len(p)] + 1. Special prompts make it misbehave."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from fastserve.config import EngineConfig
from fastserve.engine.request import EngineRequest
from fastserve.errors import InvalidArgumentError, OverloadedError
from fastserve.log import get_logger
from fastserve.logprobs import TokenLogprobs
from fastserve.types import EngineInfo, EngineOutput, EngineStats, FinishReason, RequestStats

VOCAB_SIZE = 1000
MAX_MODEL_LEN = 4096
EOS = 2

# A prompt that begins with one of these:
CRASH = 900  # step raises
EXIT = 901  # the process exits at the next step
HANG = 902  # step never returns
REFUSE = 903  # add_request raises InvalidArgumentError
OVERLOAD = 904  # add_request raises OverloadedError
BUG = 905  # add_request raises something unexpected
FAIL = 906  # the request ends with finish_reason error after one token
SILENT = 907  # the request never gets a token
END = 908  # the third token is the end-of-sequence token
KILL = 909  # the process kills itself with SIGKILL


def tokens_of(prompt: Sequence[int], count: int) -> tuple[int, ...]:
    """The first tokens that the fake gives for a prompt."""
    return tuple((prompt[k % len(prompt)] + 1) % VOCAB_SIZE for k in range(count))


class FakeEngineCore:
    """Each step gives one token to every request, up to max_num_seqs."""

    def __init__(self, config: EngineConfig, step_s: float = 0.0) -> None:
        self.info = EngineInfo(
            model=config.model.model,
            max_model_len=config.model.max_model_len or MAX_MODEL_LEN,
            vocab_size=VOCAB_SIZE,
            eos_token_ids=(EOS,),
            dtype="float32",
            device="cpu",
            block_size=16,
            num_device_blocks=100,
            num_host_blocks=100,
            block_bytes=1024,
            scheduling_policy=config.scheduler.policy,
            max_num_seqs=config.scheduler.max_num_seqs,
        )
        self.closed = False
        self.requests_seen: list[EngineRequest] = []
        self._limit = config.scheduler.max_num_queued_reqs
        self._step_s = step_s
        self._live: dict[int, EngineRequest] = {}
        self._given: dict[int, int] = {}
        self._aborted: list[int] = []
        self.stopped: dict[int, int] = {}
        self._iterations = 0

    def add_request(self, request: EngineRequest) -> None:
        first = request.prompt_token_ids[0]
        if first == REFUSE:
            raise InvalidArgumentError("refused by the fake")
        if first == OVERLOAD or len(self._live) >= self._limit:
            raise OverloadedError("the fake is full")
        if first == BUG:
            raise KeyError("a bug of the fake")
        self.requests_seen.append(request)
        self._live[request.request_id] = request
        self._given[request.request_id] = 0

    def abort(self, request_id: int) -> None:
        if request_id in self._live:
            self._aborted.append(request_id)

    def stop(self, request_id: int, num_tokens: int) -> None:
        self.stopped[request_id] = num_tokens
        self.abort(request_id)

    def planning_delay_s(self) -> float:
        return 0.0

    def step(self) -> list[EngineOutput]:
        self._iterations += 1
        if self._step_s:
            time.sleep(self._step_s)
        outputs = [
            self._end(i, EngineOutput(request_id=i), FinishReason.ABORT) for i in self._aborted if i in self._live
        ]
        self._aborted.clear()
        for request_id in list(self._live)[: self.info.max_num_seqs]:
            outputs += self._advance(request_id)
        return outputs

    def has_work(self) -> bool:
        return bool(self._live)

    def stats(self) -> EngineStats:
        return EngineStats(num_running=len(self._live), iterations=self._iterations)

    def explain(self, request_id: int) -> dict | None:
        if request_id not in self._live:
            return None
        given = self._given[request_id]
        return {"state": "running" if given % 2 else "parked", "given": given, "odd": {1, 2}, "pair": (1, 2.5)}

    def close(self) -> None:
        self.closed = True

    def _advance(self, request_id: int) -> list[EngineOutput]:
        request, k = self._live[request_id], self._given[request_id]
        prompt, sampling = request.prompt_token_ids, request.sampling
        _misbehave(prompt[0])
        if prompt[0] == SILENT:
            return []
        output = EngineOutput(request_id=request_id, num_cached_tokens=1)
        if prompt[0] == FAIL and k == 1:
            return [self._end(request_id, replace(output, error="failed by the fake"), FinishReason.ERROR)]
        self._given[request_id] = k + 1
        token = EOS if prompt[0] == END and k == 2 else (prompt[k % len(prompt)] + 1) % VOCAB_SIZE
        logprobs = () if sampling.logprobs is None else (TokenLogprobs(-0.5, 1, (token,), (-0.5,)),)
        output = replace(output, token_ids=(token,), logprobs=logprobs)
        stops = (*sampling.stop_token_ids, *(() if sampling.ignore_eos else self.info.eos_token_ids))
        if token in stops and k + 1 > sampling.min_tokens:
            return [self._end(request_id, replace(output, stop_token_id=token), FinishReason.STOP)]
        if k + 1 == min(sampling.max_tokens or MAX_MODEL_LEN, self.info.max_model_len - len(prompt)):
            return [self._end(request_id, output, FinishReason.LENGTH)]
        return [output]

    def _end(self, request_id: int, output: EngineOutput, reason: FinishReason) -> EngineOutput:
        del self._live[request_id], self._given[request_id]
        return replace(output, finish_reason=reason, stats=RequestStats(preemptions=3, queue_s=0.25))


def _misbehave(first_token: int) -> None:
    if first_token == CRASH:
        raise RuntimeError("the fake crashed")
    if first_token == EXIT:
        os._exit(7)
    if first_token == KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    while first_token == HANG:
        time.sleep(3600)


Progress = Callable[[str, int, int], None]


def make(config: EngineConfig, *, progress: Progress | None = None) -> FakeEngineCore:
    """A fast fake."""
    if progress is not None:
        progress("weights", 1, 2)
        progress("weights", 2, 2)
    return FakeEngineCore(config)


def make_paced(config: EngineConfig, *, progress: Progress | None = None) -> FakeEngineCore:
    """A fake whose steps take 2 ms."""
    return FakeEngineCore(config, step_s=0.002)


def make_talking(config: EngineConfig, *, progress: Progress | None = None) -> FakeEngineCore:
    """A fake that logs."""
    logger = get_logger("fastserve.fake")
    logger.info("the fake says hello")
    logger.warning("the fake says beware")
    return FakeEngineCore(config)


def make_broken(config: EngineConfig, *, progress: Progress | None = None) -> FakeEngineCore:
    """A fake that refuses its configuration."""
    raise InvalidArgumentError("the fake does not like its configuration")


def make_buggy(config: EngineConfig, *, progress: Progress | None = None) -> FakeEngineCore:
    """A fake whose start fails unexpectedly."""
    raise KeyError("a bug at start")


def make_exiting(config: EngineConfig, *, progress: Progress | None = None) -> FakeEngineCore:
    """A fake that ends its process at start."""
    sys.exit(5)


def make_stuck(config: EngineConfig, *, progress: Progress | None = None) -> FakeEngineCore:
    """A fake that never gets ready."""
    while True:
        time.sleep(3600)
