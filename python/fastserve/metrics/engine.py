"""The engine's state and counters as metric families, built from one `EngineStats` at scrape time."""

from collections.abc import Iterator
from dataclasses import replace

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from fastserve.metrics.names import LABEL_NAMES, PREFIX, Labels
from fastserve.types import EngineInfo, EngineStats

_GAUGES = {
    "num_requests_running": ("num_running", "requests in the batch"),
    "num_requests_waiting": ("num_waiting", "requests that hold no KV and are not in the batch"),
    "kv_cache_usage_perc": ("device_usage", "share of device KV blocks in use, 0..1"),
    "host_kv_usage_perc": ("host_usage", "share of host KV blocks in use, 0..1"),
}
_COUNTERS = {
    "num_preemptions": ("preemptions", "times a request left the batch unfinished"),
    "promotions": ("promotions", "moves to the first level because of waiting"),
    "demotions": ("demotions", "moves to a lower level"),
    "recomputed_tokens": ("recomputed_tokens", "tokens whose KV was computed again"),
    "prefix_cache_queries": ("prefix_cache_queries", "prompt tokens looked up in the prefix cache, once per sequence"),
    "prefix_cache_hits": ("prefix_cache_hits", "of prefix_cache_queries, those found"),
    "kv_offload_store_bytes": ("offload_bytes", "KV bytes copied from the device to the host"),
    "kv_offload_load_bytes": ("upload_bytes", "KV bytes copied from the host to the device"),
    "thrash_governor_trips": ("thrash_governor_trips", "times preemption was stopped for a while"),
}
_UPLOADS = {"hit": "uploads_hit", "late": "uploads_late", "wasted": "uploads_wasted"}
_PARKED = {"device": "num_parked_device", "host": "num_parked_host"}
_SUMS = ("iterations", "iteration_tokens", "schedule_s", "execute_s")
COUNTER_FIELDS = (*(field for field, _ in _COUNTERS.values()), *_UPLOADS.values(), *_SUMS)


class EngineTotals:
    """The counters of all engines that a server had: a new engine counts from 0, a counter of `/metrics` never falls.

    What an engine did between the last look at it and its death is not in them.
    """

    def __init__(self) -> None:
        self._before = EngineStats()
        self._now = EngineStats()

    def with_earlier(self, stats: EngineStats) -> EngineStats:
        """The present engine's values, its counters raised by those of the engines before it."""
        sums = {field: getattr(self._before, field) + getattr(stats, field) for field in COUNTER_FIELDS}
        self._now = replace(stats, **sums)
        return self._now

    def start_engine(self) -> None:
        """From now on the values are those of a new engine."""
        self._before = self._now


def engine_families(stats: EngineStats, labels: Labels) -> Iterator[Metric]:
    """The families of one moment of the engine, under `fastserve:`."""
    for name, (field, text) in _GAUGES.items():
        gauge = GaugeMetricFamily(PREFIX + name, text, labels=LABEL_NAMES)
        gauge.add_metric(labels, getattr(stats, field))
        yield gauge
    for name, (field, text) in _COUNTERS.items():
        counter = CounterMetricFamily(PREFIX + name, text, labels=LABEL_NAMES)
        counter.add_metric(labels, getattr(stats, field))
        yield counter
    yield from _labelled(stats, labels)
    yield _sum_and_count(
        "iteration_tokens_total", "tokens taken in by an iteration", stats.iterations, stats.iteration_tokens, labels
    )
    yield _sum_and_count(
        "schedule_seconds", "schedule and commit of an iteration", stats.iterations, stats.schedule_s, labels
    )
    yield _sum_and_count("execute_seconds", "the model in an iteration", stats.iterations, stats.execute_s, labels)


def _labelled(stats: EngineStats, labels: Labels) -> Iterator[Metric]:
    parked = GaugeMetricFamily(
        PREFIX + "num_requests_parked", "paused requests by where their KV is", labels=(*LABEL_NAMES, "where")
    )
    for where, field in _PARKED.items():
        parked.add_metric((*labels, where), getattr(stats, field))
    yield parked
    levels = GaugeMetricFamily(
        PREFIX + "level_requests", "unfinished requests per scheduling level", labels=(*LABEL_NAMES, "level")
    )
    for level, count in enumerate(stats.level_requests):
        levels.add_metric((*labels, str(level)), count)
    yield levels
    uploads = CounterMetricFamily(
        PREFIX + "uploads",
        "uploads of parked KV: complete in time, waited for, undone before use",
        labels=(*LABEL_NAMES, "result"),
    )
    for result, field in _UPLOADS.items():
        uploads.add_metric((*labels, result), getattr(stats, field))
    yield uploads


def _sum_and_count(name: str, text: str, count: int, total: float, labels: Labels) -> Metric:
    """A histogram with the one bucket that sums alone can fill."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=LABEL_NAMES)
    family.add_metric(labels, [("+Inf", count)], total)
    return family


def info_family(info: EngineInfo, labels: Labels) -> Metric:
    """What is fixed while the engine runs, as the labels of a constant 1."""
    facts = {
        "block_size": info.block_size,
        "num_gpu_blocks": info.num_device_blocks,
        "num_cpu_blocks": info.num_host_blocks,
        "block_bytes": info.block_bytes,
        "dtype": info.dtype,
        "device": info.device,
        "scheduling_policy": info.scheduling_policy,
    }
    family = GaugeMetricFamily(
        PREFIX + "cache_config_info", "configuration of the KV cache", labels=(*LABEL_NAMES, *facts)
    )
    family.add_metric((*labels, *map(str, facts.values())), 1)
    return family


def fallback_family(info: EngineInfo, labels: Labels) -> Metric:
    """1 where others compute what our best kernels should, because those failed their check at start; else 0."""
    family = GaugeMetricFamily(
        PREFIX + "kernel_fallback",
        "others replace kernels that failed a check",
        labels=(*LABEL_NAMES, "kernel", "in_use"),
    )
    family.add_metric((*labels, "attention", info.attention_backend), 1.0 if info.kernel_fallback else 0.0)
    return family
