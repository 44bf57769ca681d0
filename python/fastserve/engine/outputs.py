"""StepEvents of the scheduler -> EngineOutput values; O(batch)."""

from dataclasses import dataclass, field

from fastserve._C.sched import FinishReason as CoreFinishReason
from fastserve._C.sched import Scheduler, StepEvents
from fastserve.errors import cause_of
from fastserve.log import get_logger
from fastserve.logprobs import TokenLogprobs
from fastserve.types import BAD_LISTS, BAD_SETTINGS, NO_FINITE_LOGIT, EngineOutput, FinishReason, RequestStats
from fastserve.worker.step_output import StepLogprobs, StepOutput

logger = get_logger(__name__)

_REASONS = {
    int(CoreFinishReason.STOP): (FinishReason.STOP, None),
    int(CoreFinishReason.LENGTH): (FinishReason.LENGTH, None),
    int(CoreFinishReason.ABORT): (FinishReason.ABORT, None),
    int(CoreFinishReason.ERROR): (FinishReason.ERROR, "the iteration that the request was part of failed"),
    int(CoreFinishReason.DEADLINE): (FinishReason.DEADLINE, "deadline_s expired before the request finished"),
}
_NO_TOKEN = {
    NO_FINITE_LOGIT: "the model gave no finite logit, or the request's form, bans and allowed tokens leave no token",
    BAD_SETTINGS: "a sampling setting of the request is out of the sampler's range",
    BAD_LISTS: "the tokens that the penalties of the request count are not all in the vocabulary",
}


@dataclass(slots=True)
class StepOutputs:
    """What a step did for its requests.

    Attributes:
        outputs: in the order of the events.
        failed: requests that go on in the scheduler but whose output could not be made, and why.
    """

    outputs: list[EngineOutput] = field(default_factory=list)
    failed: list[tuple[int, str]] = field(default_factory=list)


def engine_outputs(
    scheduler: Scheduler,
    events: StepEvents,
    output: StepOutput | None,
    now_s: float,
    *,
    failures: dict[int, str],
    step_error: str | None = None,
) -> StepOutputs:
    """Join the scheduler's events with the log-probabilities of the step just committed.

    Args:
        events: just taken from the scheduler, which knows ended requests until it schedules again.
        output: the result of that step; None when no step was committed or it failed.
        failures: why requests fail that were ended because of an error; those that have ended are taken out.
        step_error: why the step failed, when it did.
    """
    made = StepOutputs()
    add = made.outputs.append
    if not events.request_ids.size:
        return made
    logprobs = output.logprobs if output is not None else None
    wanted = output.num_logprobs.tolist() if output is not None else []
    rows = zip(
        events.request_ids.tolist(),
        events.sample_indices.tolist(),
        events.token_ids.tolist(),
        events.finish_reasons.tolist(),
        events.num_cached_tokens.tolist(),
        strict=True,
    )
    for request_id, sample, token_id, reason_code, num_cached in rows:
        reason, error = _REASONS.get(reason_code, (None, None))
        try:
            if reason_code:
                failure = failures.pop(request_id, None)
                if reason is FinishReason.ERROR:
                    error = (
                        failure or _why_no_token(output, sample) or (f"{error}: {step_error}" if step_error else error)
                    )
            add(
                EngineOutput(
                    request_id=request_id,
                    token_ids=(token_id,) if token_id >= 0 else (),
                    logprobs=(_logprobs_of(logprobs, sample, wanted[sample]),)
                    if logprobs is not None and token_id >= 0 and wanted[sample] >= 0
                    else (),
                    finish_reason=reason,
                    stop_token_id=token_id if reason is FinishReason.STOP and token_id >= 0 else None,
                    num_cached_tokens=num_cached,
                    stats=_stats(scheduler, request_id, now_s) if reason is not None else None,
                    error=error,
                )
            )
        except Exception as bad_row:
            logger.exception("the output of request %d could not be made", request_id)
            why = f"the output could not be made: {cause_of(bad_row)}"
            if reason is None:
                made.failed.append((request_id, why))
            else:
                add(EngineOutput(request_id=request_id, finish_reason=FinishReason.ERROR, error=why))
    return made


def _why_no_token(output: StepOutput | None, sample: int) -> str | None:
    """Return why a sampling entry of the step has no token; None when it has one, or when there is no such entry."""
    return _NO_TOKEN.get(int(output.sampled[sample])) if output is not None and sample >= 0 else None


def _logprobs_of(arrays: StepLogprobs, sample: int, num_top: int) -> TokenLogprobs:
    return TokenLogprobs(
        logprob=float(arrays.token_logprobs[sample]),
        rank=int(arrays.ranks[sample]),
        top_ids=tuple(arrays.top_ids[sample, :num_top].tolist()),
        top_logprobs=tuple(arrays.top_logprobs[sample, :num_top].tolist()),
    )


def _stats(scheduler: Scheduler, request_id: int, now_s: float) -> RequestStats:
    stats = scheduler.request_stats(request_id, now_s)
    return RequestStats(
        preemptions=stats.preemptions,
        parked_s=stats.parked_s,
        host_s=stats.host_s,
        upload_wait_s=stats.upload_wait_s,
        recomputed_tokens=stats.recomputed_tokens,
        queue_s=stats.queue_s,
    )
