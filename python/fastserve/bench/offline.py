"""`fastserve bench latency` and `throughput`: the engine in this process, without a server."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastserve.engine.llm import LLM
from fastserve.errors import RequestFailedError
from fastserve.types import RequestOutput, SamplingParams
from fastserve.workload import Workload

PERCENTILES = (10, 25, 50, 75, 90, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Equal requests that run together.

    Attributes:
        input_len, output_len: tokens of each.
        batch_size: how many.
    """

    input_len: int = 32
    output_len: int = 128
    batch_size: int = 8


def measure_latency(llm: LLM, batch: Batch, *, num_warmups: int, num_iters: int) -> dict[str, object]:
    """Time a batch from its first prompt token to its last output token, several times.

    Returns:
        avg_latency, latencies and percentiles, seconds.
    Raises:
        RequestFailedError: a request failed.
    """
    rng = np.random.default_rng(0)
    sampling = SamplingParams(temperature=0.0, max_tokens=batch.output_len, ignore_eos=True)
    samples = []
    for _ in range(num_warmups + num_iters):
        # New prompts every time: the prefix cache would answer the old ones.
        prompts = rng.integers(0, llm.info.vocab_size, (batch.batch_size, batch.input_len)).tolist()
        start_s = time.perf_counter()
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        samples.append(time.perf_counter() - start_s)
        _require_success(outputs)
    latencies = samples[num_warmups:]
    values = np.percentile(latencies, PERCENTILES).tolist()
    return {
        "avg_latency": float(np.mean(latencies)),
        "latencies": latencies,
        "percentiles": dict(zip(map(str, PERCENTILES), values, strict=True)),
    }


def measure_throughput(llm: LLM, workload: Workload, *, progress: bool = False) -> dict[str, object]:
    """Time all requests of a workload, given at once.

    Returns:
        elapsed_time (seconds), num_requests, total_num_tokens, total_output_tokens, requests_per_second,
        tokens_per_second (prompt and output), output_tokens_per_second.
    Raises:
        RequestFailedError: a request failed.
    """
    prompts = [workload.prompt_ids(i, llm.info.vocab_size).tolist() for i in range(len(workload))]
    sampling = [
        SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        for tokens in workload.output_tokens.tolist()
    ]
    start_s = time.perf_counter()
    outputs = llm.generate(prompts, sampling, use_tqdm=progress)
    elapsed_s = time.perf_counter() - start_s
    _require_success(outputs)
    output_tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    total_tokens = output_tokens + sum(map(len, prompts))
    return {
        "elapsed_time": elapsed_s,
        "num_requests": len(prompts),
        "total_num_tokens": total_tokens,
        "total_output_tokens": output_tokens,
        "requests_per_second": len(prompts) / elapsed_s,
        "tokens_per_second": total_tokens / elapsed_s,
        "output_tokens_per_second": output_tokens / elapsed_s,
    }


def _require_success(outputs: Sequence[RequestOutput]) -> None:
    for i, output in enumerate(outputs):
        if error := output.outputs[0].error:
            raise RequestFailedError(f"request {i} failed: {error}")
