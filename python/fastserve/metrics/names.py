"""Prefix, labels and buckets that all metrics share. Buckets are vLLM's, so that its dashboards fit."""

from typing import NamedTuple

PREFIX = "fastserve:"
VLLM_PREFIX = "vllm:"
LABEL_NAMES = ("model_name", "engine")

TTFT_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BUCKETS_S = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    80.0,
)
REQUEST_BUCKETS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0),
    *(960.0, 1920.0, 7680.0),
)
CHOICES_BUCKETS = (1, 2, 5, 10, 20)
PREEMPTION_BUCKETS = (0, 1, 2, 3, 4, 5, 10, 20)
TOKEN_COUNT_BUCKETS = tuple(m * 10**e for e in range(6) for m in (1, 2, 5))


# Why a request to generate was refused before it ran; the values of the label `reason`.
REFUSAL_REASONS = (
    *("invalid_request", "context_length", "unauthorized", "not_found", "too_large", "body_timeout"),
    *("overloaded", "loading", "draining", "restarting", "engine_dead", "internal"),
)


class Labels(NamedTuple):
    """Labels of every sample, with vLLM's names."""

    model_name: str
    engine: str = "0"
