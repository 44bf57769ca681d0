"""Histograms and counters of requests, observed by the server as their tokens arrive."""

from prometheus_client import CollectorRegistry, Counter, Histogram

from fastserve.metrics.names import (
    CHOICES_BUCKETS,
    LABEL_NAMES,
    PREEMPTION_BUCKETS,
    PREFIX,
    REFUSAL_REASONS,
    REQUEST_BUCKETS_S,
    TOKEN_BUCKETS_S,
    TOKEN_COUNT_BUCKETS,
    TTFT_BUCKETS_S,
    Labels,
)
from fastserve.types import FinishReason, RequestStats, SamplingParams

COMPLETE = (FinishReason.STOP, FinishReason.LENGTH)


class RequestMetrics:
    """The request metrics of one model, in their own registry.

    Counters count all that happened. The times of a sequence (but the first token's) and its preemptions are observed
    when it is complete: those of one that failed or was cut off say nothing of how long a reply takes.
    """

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.labels = Labels(model_name)
        self.ttft_s = self._histogram(
            "time_to_first_token_seconds", "arrival to the first token of a sequence", TTFT_BUCKETS_S
        )
        self.itl_s = self._histogram(
            "inter_token_latency_seconds",
            "time between two tokens of a sequence as the client sees it; request_parked_time_seconds has its pauses",
            TOKEN_BUCKETS_S,
        )
        self.e2e_s = self._histogram(
            "e2e_request_latency_seconds", "arrival to the end of a complete sequence", REQUEST_BUCKETS_S
        )
        self.queue_s = self._histogram(
            "request_queue_time_seconds", "arrival to the first iteration of a complete sequence", REQUEST_BUCKETS_S
        )
        self.prefill_s = self._histogram(
            "request_prefill_time_seconds",
            "first iteration to first token of a complete sequence, pauses included",
            REQUEST_BUCKETS_S,
        )
        self.decode_s = self._histogram(
            "request_decode_time_seconds",
            "first to last token of a complete sequence, pauses included",
            REQUEST_BUCKETS_S,
        )
        self.inference_s = self._histogram(
            "request_inference_time_seconds",
            "first iteration to end of a complete sequence, pauses included",
            REQUEST_BUCKETS_S,
        )
        self.tpot_s = self._histogram(
            "request_time_per_output_token_seconds",
            "mean time per token after the first, of a complete sequence with two or more",
            TOKEN_BUCKETS_S,
        )
        self.longest_gap_s = self._histogram(
            "request_longest_gap_seconds",
            "longest time between two tokens of a complete sequence with two or more",
            TOKEN_BUCKETS_S,
        )
        self.normalized_s = self._histogram(
            "normalized_latency_seconds", "end-to-end latency of a complete sequence over its tokens", TOKEN_BUCKETS_S
        )
        self.preemptions = self._histogram(
            "request_num_preemptions", "times a complete sequence was preempted", PREEMPTION_BUCKETS
        )
        self.prompt_tokens_histogram = self._histogram(
            "request_prompt_tokens", "prompt tokens of a request that was not refused", TOKEN_COUNT_BUCKETS
        )
        self.generation_tokens_histogram = self._histogram(
            "request_generation_tokens", "output tokens of a sequence, however it ended", TOKEN_COUNT_BUCKETS
        )
        self._longest_reply = self._histogram(
            "request_max_num_generation_tokens",
            "output tokens of the longest sequence of a request that was not refused",
            TOKEN_COUNT_BUCKETS,
        )
        self._n = self._histogram("request_params_n", "n of a request that was not refused", CHOICES_BUCKETS)
        self._max_tokens = self._histogram(
            "request_params_max_tokens",
            "max_tokens of a request that was not refused and gave one",
            TOKEN_COUNT_BUCKETS,
        )
        self.parked_s = Histogram(
            PREFIX + "request_parked_time_seconds",
            "time a complete sequence was paused, by where its KV was: device, host, waiting for its upload",
            (*LABEL_NAMES, "where"),
            registry=self.registry,
            buckets=REQUEST_BUCKETS_S,
        )
        self._parked_by_where = {w: self.parked_s.labels(*self.labels, w) for w in ("device", "host", "upload")}
        self.prompt_tokens = self._counter("prompt_tokens", "tokens of prompts that led to a first token")
        self.cached_tokens = self._counter("prompt_tokens_cached", "of prompt_tokens, those found in the prefix cache")
        self.generation_tokens = self._counter("generation_tokens", "output tokens")
        self.engine_restarts = self._counter("engine_restarts", "times a dead engine was replaced by a new process")
        self._finished = Counter(
            PREFIX + "request_success",
            "sequences that ended, by reason: stop, length, abort, error or deadline",
            (*LABEL_NAMES, "finished_reason"),
            registry=self.registry,
        )
        self._rejections = Counter(
            PREFIX + "admission_rejections",
            "requests to generate that were refused before they ran, by reason",
            (*LABEL_NAMES, "reason"),
            registry=self.registry,
        )
        for ended in FinishReason:  # a series that is there from the start has a rate at its first event
            self._finished.labels(*self.labels, ended.value)
        for refused in REFUSAL_REASONS:
            self._rejections.labels(*self.labels, refused)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        metric = Histogram(PREFIX + name, text, LABEL_NAMES, registry=self.registry, buckets=buckets)
        return metric.labels(*self.labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(PREFIX + name, text, LABEL_NAMES, registry=self.registry).labels(*self.labels)

    def count_finish(self, reason: FinishReason) -> None:
        """Count a sequence that ended."""
        self._finished.labels(*self.labels, reason.value).inc()

    def count_rejection(self, reason: str) -> None:
        """Count a request that was refused, for one of `REFUSAL_REASONS`."""
        self._rejections.labels(*self.labels, reason).inc()

    def observe_request(self, sampling: SamplingParams, num_prompt_tokens: int, longest_reply: int) -> None:
        """Record a request that was not refused, when it ends: tokens of its prompts and of its longest sequence."""
        self.prompt_tokens_histogram.observe(num_prompt_tokens)
        self._longest_reply.observe(longest_reply)
        self._n.observe(sampling.n)
        if sampling.max_tokens is not None:
            self._max_tokens.observe(sampling.max_tokens)

    def observe_stats(self, stats: RequestStats) -> None:
        """Record where the time of a complete sequence went."""
        self.queue_s.observe(stats.queue_s)
        self.preemptions.observe(stats.preemptions)
        self._parked_by_where["device"].observe(stats.parked_s)
        self._parked_by_where["host"].observe(stats.host_s)
        self._parked_by_where["upload"].observe(stats.upload_wait_s)


class RequestTimer:
    """Clock of one sequence: turns the arrival of its tokens into observations. Times are monotonic seconds."""

    __slots__ = ("_arrival_s", "_first_s", "_last_s", "_longest_gap_s", "_metrics", "num_tokens")

    def __init__(self, metrics: RequestMetrics, arrival_s: float) -> None:
        self._metrics = metrics
        self._arrival_s = arrival_s
        self._first_s = self._last_s = arrival_s
        self._longest_gap_s = 0.0
        self.num_tokens = 0

    def on_tokens(self, count: int, now_s: float) -> None:
        """`count` new tokens arrived together; their gap is shared among them, and is 0 behind the first token."""
        num_gaps, gap_s = count, (now_s - self._last_s) / count
        if self.num_tokens == 0:
            self._metrics.ttft_s.observe(now_s - self._arrival_s)
            num_gaps, gap_s, self._first_s = count - 1, 0.0, now_s
        else:
            self._longest_gap_s = max(self._longest_gap_s, now_s - self._last_s)
        for _ in range(num_gaps):
            self._metrics.itl_s.observe(gap_s)
        self._metrics.generation_tokens.inc(count)
        self._last_s = now_s
        self.num_tokens += count

    def on_finish(self, reason: FinishReason, stats: RequestStats | None, now_s: float) -> None:
        """The sequence ended; `stats` when the engine gave them."""
        metrics = self._metrics
        metrics.count_finish(reason)
        metrics.generation_tokens_histogram.observe(self.num_tokens)
        if reason not in COMPLETE:
            return
        e2e_s = now_s - self._arrival_s
        metrics.e2e_s.observe(e2e_s)
        if self.num_tokens:
            metrics.normalized_s.observe(e2e_s / self.num_tokens)
            metrics.decode_s.observe(self._last_s - self._first_s)
        if self.num_tokens > 1:
            metrics.tpot_s.observe((self._last_s - self._first_s) / (self.num_tokens - 1))
            metrics.longest_gap_s.observe(self._longest_gap_s)
        if stats is not None:
            metrics.observe_stats(stats)
            metrics.inference_s.observe(max(0.0, e2e_s - stats.queue_s))
            if self.num_tokens:
                metrics.prefill_s.observe(max(0.0, self._first_s - self._arrival_s - stats.queue_s))
