"""Names and values of `/metrics`, read back with prometheus_client's own parser."""

import dataclasses
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastserve.metrics import MetricsExporter, RequestMetrics, RequestTimer
from fastserve.metrics.engine import COUNTER_FIELDS, EngineTotals
from fastserve.types import EngineInfo, EngineStats, FinishReason, RequestStats, SamplingParams

INFO = EngineInfo(
    model="m",
    max_model_len=64,
    vocab_size=10,
    eos_token_ids=(1,),
    dtype="float32",
    device="cpu",
    block_size=16,
    num_device_blocks=8,
    num_host_blocks=4,
    block_bytes=1024,
    scheduling_policy="fcfs",
    max_num_seqs=2,
)


def families_of(text: bytes) -> dict[str, object]:
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def documented() -> dict[str, str]:
    """Name -> type of every metric in the tables of docs/metrics.md."""
    page = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| (`[^|]*`) \| (counter|gauge|histogram) \|", page, re.MULTILINE)
    return {name: kind for names, kind in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize("prefix", ["fastserve:", "vllm:"])
def test_the_metrics_are_those_that_are_documented(prefix):
    exporter = MetricsExporter(RequestMetrics("m"), vllm_names=True)
    families = families_of(exporter.render(INFO, EngineStats(level_requests=(1,))))
    exposed = {n.removeprefix(prefix): family.type for n, family in families.items() if n.startswith(prefix)}
    assert exposed == documented()


def test_every_value_of_the_engine_is_either_a_state_or_adds_up_over_engines():
    states = {"num_running", "num_waiting", "num_parked_device", "num_parked_host"}
    states |= {"level_requests", "device_usage", "host_usage"}
    assert {f.name for f in dataclasses.fields(EngineStats)} == states | set(COUNTER_FIELDS)
    assert not states & set(COUNTER_FIELDS)


def test_a_second_engine_goes_on_with_the_counters_and_not_with_the_state():
    totals = EngineTotals()
    totals.with_earlier(EngineStats(preemptions=5, schedule_s=0.5, num_running=3))
    totals.start_engine()
    assert totals.with_earlier(EngineStats(preemptions=1)).preemptions == 6
    second = totals.with_earlier(EngineStats(preemptions=2, schedule_s=0.25))  # looked at twice, counted once
    assert (second.preemptions, second.schedule_s, second.num_running) == (7, 0.75, 0)


def test_engine_values_are_those_of_the_stats():
    stats = EngineStats(
        num_running=1,
        num_parked_device=2,
        num_parked_host=3,
        uploads_hit=4,
        uploads_late=5,
        iterations=6,
        iteration_tokens=70,
        schedule_s=0.5,
        device_usage=0.25,
    )
    families = families_of(MetricsExporter(RequestMetrics("m")).render(INFO, stats))
    parked = {s.labels["where"]: s.value for s in families["fastserve:num_requests_parked"].samples}
    assert parked == {"device": 2, "host": 3}
    uploads = {s.labels["result"]: s.value for s in families["fastserve:uploads"].samples}
    assert uploads == {"hit": 4, "late": 5, "wasted": 0}
    tokens = {s.name.rpartition("_")[2]: s.value for s in families["fastserve:iteration_tokens_total"].samples}
    assert tokens == {"bucket": 6, "count": 6, "sum": 70}
    info = families["fastserve:cache_config_info"].samples[0].labels
    assert (info["block_size"], info["num_gpu_blocks"], info["scheduling_policy"]) == ("16", "8", "fcfs")
    assert families["fastserve:num_requests_running"].samples[0].labels == {"model_name": "m", "engine": "0"}


@pytest.mark.parametrize(
    ("backend", "reason", "value"),
    [("native", "", 0.0), ("mma", "prefill: off by 3", 1.0), ("torch", "decode: off by 3", 1.0)],
)
def test_what_is_used_in_place_of_our_best_kernels_shows(backend, reason, value):
    info = dataclasses.replace(INFO, attention_backend=backend, kernel_fallback=reason)
    sample = families_of(MetricsExporter(RequestMetrics("m")).render(info, None))["fastserve:kernel_fallback"].samples[
        0
    ]
    assert (sample.labels["kernel"], sample.labels["in_use"], sample.value) == ("attention", backend, value)


def test_model_name_with_quotes_and_line_breaks_is_escaped():
    name = 'a"b\\c\nd'
    families = families_of(MetricsExporter(RequestMetrics(name)).render(None, None))
    assert families["fastserve:prompt_tokens"].samples[0].labels["model_name"] == name


def test_timer_splits_first_token_gaps_and_total():
    metrics = RequestMetrics("m")
    timer = RequestTimer(metrics, 10.0)
    timer.on_tokens(1, 11.0)
    timer.on_tokens(2, 11.5)
    timer.on_finish(FinishReason.LENGTH, RequestStats(preemptions=1, host_s=0.125, queue_s=0.25), 12.0)
    sums = {
        sample.name: sample.value
        for family in families_of(MetricsExporter(metrics).render(None, None)).values()
        for sample in family.samples
        if sample.name.endswith(("_sum", "_count")) and sample.labels.get("where", "host") == "host"
    }
    prefix = "fastserve:"
    assert sums[prefix + "time_to_first_token_seconds_sum"] == 1.0
    assert sums[prefix + "inter_token_latency_seconds_sum"] == pytest.approx(0.5)
    assert sums[prefix + "inter_token_latency_seconds_count"] == 2
    assert sums[prefix + "e2e_request_latency_seconds_sum"] == 2.0
    assert sums[prefix + "normalized_latency_seconds_sum"] == pytest.approx(2.0 / 3)
    assert sums[prefix + "request_queue_time_seconds_sum"] == 0.25
    assert sums[prefix + "request_prefill_time_seconds_sum"] == 0.75
    assert sums[prefix + "request_decode_time_seconds_sum"] == 0.5
    assert sums[prefix + "request_inference_time_seconds_sum"] == 1.75
    assert sums[prefix + "request_time_per_output_token_seconds_sum"] == 0.25
    assert sums[prefix + "request_longest_gap_seconds_sum"] == 0.5
    assert sums[prefix + "request_parked_time_seconds_sum"] == 0.125
    assert sums[prefix + "request_num_preemptions_sum"] == 1


def test_sequence_without_tokens_has_no_normalized_latency():
    metrics = RequestMetrics("m")
    RequestTimer(metrics, 0.0).on_finish(FinishReason.ERROR, None, 1.0)
    families = families_of(MetricsExporter(metrics).render(None, None))
    counts = [s.value for s in families["fastserve:normalized_latency_seconds"].samples if s.name.endswith("_count")]
    assert counts == [0]


def test_what_a_request_asked_for_is_observed_when_it_gave_it():
    metrics = RequestMetrics("m")
    metrics.observe_request(SamplingParams(n=3, max_tokens=9), num_prompt_tokens=4, longest_reply=7)
    metrics.observe_request(SamplingParams(max_tokens=None), num_prompt_tokens=4, longest_reply=2)
    values = {s.name: s.value for family in metrics.registry.collect() for s in family.samples}
    sums = {name: values[f"fastserve:request_{name}_sum"] for name in ("params_n", "params_max_tokens")}
    assert sums == {"params_n": 4, "params_max_tokens": 9}
    assert values["fastserve:request_params_max_tokens_count"] == 1
    assert values["fastserve:request_max_num_generation_tokens_sum"] == 9


def test_the_process_is_described_once_under_the_names_of_all_clients():
    families = families_of(MetricsExporter(RequestMetrics("m"), vllm_names=True).render(INFO, EngineStats()))
    assert families["process_resident_memory_bytes"].samples[0].value > 1e6
    assert {"process_cpu_seconds", "process_open_fds", "process_start_time_seconds"} <= set(families)
    assert not [name for name in families if "process_" in name and ":" in name]


def test_creation_times_are_left_out():
    text = MetricsExporter(RequestMetrics("m")).render(None, None)
    assert b"_created" not in text


def test_every_token_but_the_first_has_a_gap_also_when_several_come_at_once():
    metrics = RequestMetrics("m")
    timer = RequestTimer(metrics, 10.0)
    timer.on_tokens(3, 11.0)
    timer.on_tokens(2, 12.0)
    timer.on_finish(FinishReason.LENGTH, None, 12.0)
    values = {s.name: s.value for family in metrics.registry.collect() for s in family.samples}
    assert values["fastserve:inter_token_latency_seconds_count"] == 4
    assert values["fastserve:inter_token_latency_seconds_sum"] == 1.0
    assert values["fastserve:time_to_first_token_seconds_sum"] == 1.0
