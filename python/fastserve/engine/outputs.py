"""StepEvents of the scheduler -> EngineOutput values; O(batch)."""

from fastserve._C.sched import FinishReason as CoreFinishReason
from fastserve._C.sched import Scheduler, StepEvents, StepPlan
from fastserve.ops.sampling import TokenLogprobs as StepLogprobs
from fastserve.types import EngineOutput, FinishReason, RequestStats, TokenLogprobs
from fastserve.worker import StepOutput

_REASONS = {
    int(CoreFinishReason.STOP): (FinishReason.STOP, None),
    int(CoreFinishReason.LENGTH): (FinishReason.LENGTH, None),
    int(CoreFinishReason.ABORT): (FinishReason.ABORT, None),
    int(CoreFinishReason.ERROR): (FinishReason.ERROR, "the model gave no finite logit, or the iteration failed"),
    int(CoreFinishReason.DEADLINE): (FinishReason.DEADLINE, "deadline_s expired before the request finished"),
}


def engine_outputs(
    scheduler: Scheduler, events: StepEvents, plan: StepPlan | None, output: StepOutput | None, now_s: float
) -> list[EngineOutput]:
    """Join the scheduler's events with the log-probabilities of the step just committed.

    Args:
        events: just taken from the scheduler, which knows ended requests until it schedules again.
        plan, output: that step and its result; None when no step was committed or it failed.
    """
    if not events.request_ids.size:
        return []
    logprobs = output.logprobs if output is not None else None
    wanted = plan.num_logprobs.tolist() if logprobs is not None else []
    rows = zip(
        events.request_ids.tolist(),
        events.sample_indices.tolist(),
        events.token_ids.tolist(),
        events.finish_reasons.tolist(),
        events.num_cached_tokens.tolist(),
        strict=True,
    )
    outputs = []
    for request_id, sample, token_id, reason_code, num_cached in rows:
        reason, error = _REASONS.get(reason_code, (None, None))
        has_logprobs = logprobs is not None and token_id >= 0 and wanted[sample] >= 0
        outputs.append(
            EngineOutput(
                request_id=request_id,
                token_ids=(token_id,) if token_id >= 0 else (),
                logprobs=(_logprobs_of(logprobs, sample, wanted[sample]),) if has_logprobs else (),
                finish_reason=reason,
                stop_token_id=token_id if reason is FinishReason.STOP else None,
                num_cached_tokens=num_cached,
                stats=_stats(scheduler, request_id, now_s) if reason is not None else None,
                error=error,
            )
        )
    return outputs


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
