"""A step that failed, run again in parts: only those rows fail that cannot run."""

from collections.abc import Callable

import numpy as np
import torch

from fastserve._C.sched import StepPlan
from fastserve.errors import cause_of
from fastserve.log import get_logger
from fastserve.logprobs import PromptLogprobs
from fastserve.ops.sampling import SETTINGS, SamplingBatch, TokenLogprobs
from fastserve.types import NO_FINITE_LOGIT, SamplingParams
from fastserve.worker.sampled import Sampled

logger = get_logger(__name__)


def run_apart(
    plan: StepPlan,
    error: Exception,
    *,
    run: Callable[[StepPlan], Sampled],
    control: Callable[[], object],
    num_logprobs: np.ndarray,
    is_fault: Callable[[Exception], bool] = lambda _: False,
) -> Sampled:
    """Run a plan whose rows failed together in halves, their halves and so on, so that the rows at fault are found.

    Running rows a second time does no harm: they write the same KV to the same places.

    Args:
        error: that of the whole plan.
        run: runs a part of the plan; it must find the tokens of the step before each time.
        control: runs a row of our own. If that fails as well, the rows are not to blame.
        num_logprobs: int32, likeliest tokens that each sampling entry asks for; -1 for no log-probabilities.
        is_fault: whether an error is one of the device, after which nothing can be run.
    Raises:
        Exception: `error`, when it is a fault or the control failed; or the fault that ended the search.
    """
    if is_fault(error):
        raise error
    try:
        control()
    except Exception as fault:
        logger.error("a row without a request failed as well: %s", fault)
        raise error from fault
    logger.warning("an iteration of %d requests failed and is run again in parts: %r", plan.num_rows, error)
    result = _Joined(plan, int(num_logprobs.max(initial=-1)))
    failed = [(0, plan.num_rows, error)]  # rows [first, end) that failed together
    while failed:
        first, end, why = failed.pop()
        if end - first == 1:
            result.fail(first, why)
            continue
        middle = (first + end) // 2
        for begin, stop in ((first, middle), (middle, end)):
            try:
                result.add(begin, stop, run(plan.slice(begin, stop)))
            except Exception as part_error:
                if is_fault(part_error):
                    raise
                failed.append((begin, stop, part_error))
    return result.sampled()


class _Joined:
    """The result of a plan, put together from those of its parts."""

    def __init__(self, plan: StepPlan, num_top: int) -> None:
        self._sample_rows = plan.sample_rows
        self._tokens = np.full(plan.num_samples, NO_FINITE_LOGIT, np.int32)
        self._logprobs = _no_logprobs(plan.num_samples, num_top) if num_top >= 0 else None
        self._errors: dict[int, str] = {}
        self._prompt_logprobs: dict[int, PromptLogprobs] = {}

    def add(self, first: int, end: int, part: Sampled) -> None:
        """Take the result of the rows [first, end)."""
        begin, stop = np.searchsorted(self._sample_rows, (first, end))
        self._tokens[begin:stop] = part.tokens
        self._prompt_logprobs |= {first + row: values for row, values in part.prompt_logprobs.items()}
        if part.logprobs is None or self._logprobs is None:
            return
        num_top = part.logprobs.top_ids.shape[1]
        rows, columns = slice(begin, stop), slice(num_top)
        np.asarray(self._logprobs.token_logprobs)[rows] = part.logprobs.token_logprobs
        np.asarray(self._logprobs.ranks)[rows] = part.logprobs.ranks
        np.asarray(self._logprobs.top_ids)[rows, columns] = part.logprobs.top_ids
        np.asarray(self._logprobs.top_logprobs)[rows, columns] = part.logprobs.top_logprobs

    def fail(self, row: int, error: Exception) -> None:
        """Take the error of a row that failed on its own."""
        self._errors[row] = cause_of(error)

    def sampled(self) -> Sampled:
        """The whole."""
        return Sampled(self._tokens, self._logprobs, self._errors, self._prompt_logprobs)


def _no_logprobs(count: int, num_top: int) -> TokenLogprobs:
    return TokenLogprobs(
        token_logprobs=np.full(count, -np.inf, np.float32),
        ranks=np.zeros(count, np.int32),
        top_ids=np.full((count, num_top), -1, np.int32),
        top_logprobs=np.full((count, num_top), -np.inf, np.float32),
    )


def greedy_row(device: torch.device) -> SamplingBatch:
    """Settings of the control row: greedy, no lists."""
    plain = SamplingParams(temperature=0.0)

    def on_device(value: float, dtype: type, count: int = 1) -> torch.Tensor:
        return torch.from_numpy(np.full(count, value, dtype)).to(device)

    return SamplingBatch(
        **{name: on_device(getattr(plain, name), dtype) for name, dtype in SETTINGS.items()},
        seeds=on_device(0, np.int64),
        counters=on_device(0, np.int64),
        history_start=on_device(0, np.int32, 2),
        history_tokens=on_device(0, np.int32, 0),
        history_prompt_len=on_device(0, np.int32),
        banned_start=on_device(0, np.int32, 2),
        banned_tokens=on_device(0, np.int32, 0),
        bias_start=on_device(0, np.int32, 2),
        bias_tokens=on_device(0, np.int32, 0),
        bias_values=on_device(0, np.float32, 0),
        only_biased=on_device(0, np.int32),
    )
