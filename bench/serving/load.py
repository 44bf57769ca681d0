"""Open-loop load over the OpenAI API of any server: requests start at their arrival times, whatever the server does."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

REQUEST_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True)
class TimedRequest:
    """One request of a workload.

    Attributes:
        arrival_s: seconds after the start of the run.
        prompt_token_ids: sent as ids, so that every server works on the same tokens.
        output_tokens: exactly this many are asked for (ignore_eos).
        group: label for the report, for example "short".
    """

    arrival_s: float
    prompt_token_ids: tuple[int, ...]
    output_tokens: int
    group: str = "all"


@dataclass(frozen=True, slots=True)
class TimedResult:
    """What became of it; times in seconds after the start of the run."""

    request: TimedRequest
    sent_s: float
    finished_s: float
    output_tokens: int
    error: str = ""
    engine: dict[str, float] = field(default_factory=dict)

    @property
    def normalized_latency_s(self) -> float:
        """End-to-end seconds per output token, from the intended arrival."""
        return (self.finished_s - self.request.arrival_s) / max(self.output_tokens, 1)


async def run_load(
    base_url: str,
    model: str,
    requests: Sequence[TimedRequest],
    *,
    on_finish: Callable[[TimedResult], None] | None = None,
) -> list[TimedResult]:
    """Send every request at its arrival time and wait for all of them; results in the order of `requests`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=base_url, timeout=REQUEST_TIMEOUT_S, limits=limits) as client:
        start_s = time.monotonic()

        async def run_one(request: TimedRequest) -> TimedResult:
            await asyncio.sleep(max(0.0, start_s + request.arrival_s - time.monotonic()))
            sent_s = time.monotonic() - start_s
            produced, error, engine = await _complete(client, model, request)
            result = TimedResult(request, sent_s, time.monotonic() - start_s, produced, error, engine)
            if on_finish is not None:
                on_finish(result)
            return result

        return list(await asyncio.gather(*(run_one(request) for request in requests)))


async def _complete(client: httpx.AsyncClient, model: str, request: TimedRequest) -> tuple[int, str, dict[str, float]]:
    body = {
        "model": model,
        "prompt": list(request.prompt_token_ids),
        "max_tokens": request.output_tokens,
        "temperature": 0.0,
        "ignore_eos": True,
    }
    try:
        response = await client.post("/v1/completions", json=body)
    except httpx.HTTPError as error:
        return 0, f"{type(error).__name__}: {error}", {}
    if response.status_code != 200:
        return 0, f"HTTP {response.status_code}: {response.text[:200]}", {}
    usage = response.json()["usage"]
    return usage["completion_tokens"], "", usage.get("fastserve") or {}


def poisson_arrivals(rate: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """Arrival times in seconds, float64[count], of a Poisson process with `rate` arrivals per second."""
    return np.cumsum(rng.exponential(1.0 / rate, count))


def summarize(results: Sequence[TimedResult]) -> dict[str, float]:
    """Mean and p95 normalised latency (s/token), mean end-to-end (s), output rate (tokens/s) and errors of a run."""
    done = [r for r in results if not r.error]
    if not done:
        return {"requests": float(len(results)), "errors": float(len(results))}
    normalized = np.array([r.normalized_latency_s for r in done])
    end_to_end = np.array([r.finished_s - r.request.arrival_s for r in done])
    span_s = max(r.finished_s for r in done) - min(r.request.arrival_s for r in done)
    return {
        "requests": float(len(results)),
        "errors": float(len(results) - len(done)),
        "mean_normalized_s": float(normalized.mean()),
        "p95_normalized_s": float(np.percentile(normalized, 95)),
        "mean_e2e_s": float(end_to_end.mean()),
        "output_tokens_per_s": sum(r.output_tokens for r in done) / span_s,
    }
