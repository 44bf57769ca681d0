"""Times iterations in the engine's own loop: forward pass, batch and sampling, and the work of the loop between two of them."""

import time
from dataclasses import replace

import numpy as np

from fastserve._C.sched import LatencyModel
from fastserve.config import EngineConfig
from fastserve.engine.core import EngineCore, StepResult
from fastserve.engine.pacing import LONGEST_WAIT_S
from fastserve.engine.request import EngineRequest
from fastserve.executor.base import Executor
from fastserve.sim.cost import Coefficients, as_coefficients
from fastserve.types import SamplingParams

LOOP_BUDGET_S = 3.0
LONGEST_PROMPT = 512
LONGEST_OUTPUT = 24
FEWEST_SAMPLES = 32  # for five coefficients


def loop_coefficients(
    config: EngineConfig, executor: Executor, latency: LatencyModel, *, budget_s: float = LOOP_BUDGET_S
) -> Coefficients:
    """Coefficients of iterations as the loop runs them; those of `latency` when there was time for few iterations only.

    Args:
        executor: loaded, with nothing to do; afterwards as well.
        latency: measured by forward passes alone.
    """
    samples = loop_samples(config, executor, latency, budget_s=budget_s)
    if len(samples) < FEWEST_SAMPLES:
        return as_coefficients(latency.coefficients())
    return fitted_coefficients(samples)


def fitted_coefficients(samples: np.ndarray) -> Coefficients:
    """Least squares of the relative error, then scaled: all iterations together take as long as they took.

    Slow iterations weigh little in relative errors, but a queue waits for them in full.

    Args:
        samples: as of `loop_samples`, at least one.
    """
    model = LatencyModel()
    model.fit(samples)
    scale = samples[:, 4].sum() / sum(model.iteration_s(*shape) for shape in samples[:, :4].tolist())
    return as_coefficients(scale * coefficient for coefficient in model.coefficients())


def loop_samples(config: EngineConfig, executor: Executor, latency: LatencyModel, *, budget_s: float) -> np.ndarray:
    """Run synthetic requests for some seconds and time the iterations.

    Returns:
        float64[n, 5]: prefill_tokens, prefill_pairs, num_decodes, decode_ctx, seconds in the worker and until it begins the
        next iteration (the mean of all).
    """
    scheduler = replace(config.scheduler.of_policy("fcfs"), max_num_queued_reqs=2**31 - 1)
    core = EngineCore(replace(config, scheduler=scheduler), executor, LatencyModel(latency.coefficients()))
    rng = np.random.default_rng(0)
    deadline_s = time.monotonic() + budget_s
    rows: list[tuple[float, ...]] = []
    next_id = 0
    while time.monotonic() < deadline_s:
        for prompt, max_tokens in _group(rng, core):
            sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
            core.add_request(EngineRequest.of(next_id, prompt, sampling))
            next_id += 1
        rows += _run_out(core, deadline_s, next_id)
    samples = np.array(rows, np.float64).reshape(-1, 6)
    # Single gaps tell more of when this thread woke up than of the worker; their sum does not.
    gap_s = max(0.0, float(samples[:, 5].mean())) if len(samples) else 0.0
    return np.column_stack([samples[:, :4], samples[:, 4] + gap_s])


def _group(rng: np.random.Generator, core: EngineCore) -> list[tuple[list[int], int]]:
    """Prompts and output lengths of requests that run together; any size of batch and of prompt is about as likely."""
    info = core.info
    room = info.num_device_blocks * info.block_size
    longest = max(1, min(LONGEST_PROMPT, info.max_model_len - LONGEST_OUTPUT, room // 2))
    count = round(float(np.exp(rng.uniform(0.0, np.log(info.max_num_seqs)))))
    group = []
    for _ in range(count):
        length = round(float(np.exp(rng.uniform(0.0, np.log(longest)))))
        group.append((rng.integers(0, info.vocab_size, length).tolist(), int(rng.integers(2, LONGEST_OUTPUT + 1))))
        room -= length + LONGEST_OUTPUT + info.block_size
        if room < 0:  # nothing is to be parked
            return group[:-1] or group
    return group


def _run_out(core: EngineCore, deadline_s: float, num_requests: int) -> list[tuple[float, ...]]:
    """Step the core, as the engine process does, until all requests have finished; abort them past the deadline.

    Returns:
        Of every iteration that was planned while another one ran: shape (4), seconds in the worker, the rest of the time
        since the one before ended.
    """
    rows: list[tuple[float, ...]] = []
    former: StepResult | None = None
    former_s = 0.0
    while core.has_work():
        while (delay_s := core.planning_delay_s()) > 0.0:
            time.sleep(min(delay_s, LONGEST_WAIT_S))
        result = core.run_step()
        now_s = time.monotonic()
        if result.output is None or result.plan is None or not result.plan.num_rows:
            former = None
        else:
            if former is not None:
                rows.append((*result.plan.shape, result.output.elapsed_s, now_s - former_s - result.output.elapsed_s))
            former, former_s = result, now_s
        core.outputs_of(result, now_s)  # as step() does, at the same time
        if now_s > deadline_s:
            for request_id in range(num_requests):
                core.abort(request_id)
    return rows
