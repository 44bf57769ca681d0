"""Prometheus metrics: what the server saw of each request, and the engine's own counters at scrape time."""

from fastserve.metrics.exposition import MetricsExporter
from fastserve.metrics.names import REFUSAL_REASONS
from fastserve.metrics.requests import RequestMetrics, RequestTimer

__all__ = ["REFUSAL_REASONS", "MetricsExporter", "RequestMetrics", "RequestTimer"]
