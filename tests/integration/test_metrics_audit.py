"""Every number of `/metrics` against what clients saw, while hundreds of preemptions, refusals and departures take place.

`AUDIT` has a row for each metric; one without a row, or a row without a metric, fails the test.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fastserve.config import ServerConfig
from fastserve.engine.async_engine import AsyncEngine
from tests.integration.audit_clients import MAX_QUEUED, Clients, Replies, lengths, mixed, rough
from tests.integration.engine_driver import engine_config
from tests.unit.server.conftest import Live, live_server

TIME_SLICED = ("skip-join-mlfq", "learned", "mlfq")
POLICIES = (*TIME_SLICED, "fcfs", "priority")
MAX_NUM_SEQS = 4

Key = tuple[str, ...]  # name of the sample, then its labels' values without model_name, engine and le


class Scrape(dict[Key, float]):
    """Samples of one look at `/metrics` under one prefix, without buckets; `families` are the metrics' names."""

    families: frozenset[str]

    def __missing__(self, key: Key) -> float:
        return 0.0

    def since(self, before: "Scrape") -> "Scrape":
        """What was added."""
        return Scrape({key: value - before[key] for key, value in self.items()})


def near(value: float, expected: float) -> bool:
    return value == pytest.approx(expected, rel=1e-6, abs=1e-4)


# --- the checks: (what was added in the phase, what stands there after it, what the clients saw) ---

ENDS = "request_success_total"
Check = Callable[[Scrape, Scrape, Replies], bool]


def counts(name: str, expected: Callable[[Replies], float]) -> Check:
    """A histogram has observed so often."""
    return lambda added, _, replies: added[name + "_count",] == expected(replies)


def idle(name: str, *labels: tuple[str, ...]) -> Check:
    """A gauge is back at 0."""
    return lambda added, now, replies: all(now[name, *values] == 0 for values in labels or ((),))


def generation_tokens(added: Scrape, _: Scrape, replies: Replies) -> bool:
    seen = replies.sum("completion_tokens") + replies.cut_tokens
    tokens = added["generation_tokens_total",]
    return seen <= tokens <= seen + replies.cut_limit - replies.cut_tokens


def prompt_tokens(added: Scrape, _: Scrape, replies: Replies) -> bool:
    seen = replies.sum("prompt_tokens")
    return seen <= added["prompt_tokens_total",] <= seen + replies.cut_prompt_tokens


def cached_tokens(added: Scrape, _: Scrape, replies: Replies) -> bool:
    seen = replies.sum("prompt_tokens_details", "cached_tokens")
    return seen <= added["prompt_tokens_cached_total",] <= seen + replies.cut_prompt_tokens


def sequences_with_a_token(added: Scrape, _: Scrape, replies: Replies) -> bool:
    count = added["time_to_first_token_seconds_count",]
    return replies.complete <= count <= replies.sequences and (not replies.exact or count == replies.sequences)


def further_tokens(added: Scrape, _: Scrape, replies: Replies) -> bool:
    gaps = added["generation_tokens_total",] - added["time_to_first_token_seconds_count",]
    times = added["e2e_request_latency_seconds_sum",] - added["time_to_first_token_seconds_sum",]
    in_time = not replies.only_lengths or near(added["inter_token_latency_seconds_sum",], times)
    return added["inter_token_latency_seconds_count",] == gaps and in_time


def end_to_end(added: Scrape, _: Scrape, replies: Replies) -> bool:
    between = added["request_queue_time_seconds_sum",] <= added["e2e_request_latency_seconds_sum",] <= replies.wall_s
    return added["e2e_request_latency_seconds_count",] == replies.complete and between


def parked_time(added: Scrape, _: Scrape, replies: Replies) -> bool:
    return all(
        added["request_parked_time_seconds_count", where] == replies.complete
        and near(added["request_parked_time_seconds_sum", where], replies.sum("fastserve", figure))
        for where, figure in (("device", "parked_s"), ("host", "host_s"), ("upload", "upload_wait_s"))
    )


def queue_time(added: Scrape, _: Scrape, replies: Replies) -> bool:
    in_sum = near(added["request_queue_time_seconds_sum",], replies.sum("fastserve", "queue_s"))
    return added["request_queue_time_seconds_count",] == replies.complete and in_sum


def inference_time(added: Scrape, _: Scrape, replies: Replies) -> bool:
    e2e_s, queue_s = added["e2e_request_latency_seconds_sum",], added["request_queue_time_seconds_sum",]
    in_sum = near(added["request_inference_time_seconds_sum",], e2e_s - queue_s)
    return added["request_inference_time_seconds_count",] == replies.complete and in_sum


def prefill_and_decode_time(added: Scrape, _: Scrape, replies: Replies) -> bool:
    """Both are parts of the time from the first iteration to the end, and nearly all of it."""
    parts_s = added["request_prefill_time_seconds_sum",] + added["request_decode_time_seconds_sum",]
    counts = {added[f"request_{part}_time_seconds_count",] for part in ("prefill", "decode")}
    return (
        len(counts) == 1
        and counts.pop() <= replies.complete
        and parts_s <= added["request_inference_time_seconds_sum",]
    )


def gaps_of_sequences(added: Scrape, _: Scrape, replies: Replies) -> bool:
    """No mean is above the longest; as many of one as of the other."""
    mean_s, longest_s = (f"request_{name}_seconds" for name in ("time_per_output_token", "longest_gap"))
    counts = {added[f"{name}_count",] for name in (mean_s, longest_s)}
    return (
        len(counts) == 1 and counts.pop() <= replies.complete and added[f"{mean_s}_sum",] <= added[f"{longest_s}_sum",]
    )


def longest_reply(added: Scrape, _: Scrape, replies: Replies) -> bool:
    longest = added["request_max_num_generation_tokens_sum",]
    in_sum = longest <= added["generation_tokens_total",] <= longest * max(1, replies.sequences)
    return added["request_max_num_generation_tokens_count",] == replies.num_requests and in_sum


def params_n(added: Scrape, _: Scrape, replies: Replies) -> bool:
    """Each request has n sequences for each of its prompts."""
    in_sum = replies.num_requests <= added["request_params_n_sum",] <= replies.sequences
    return added["request_params_n_count",] == replies.num_requests and in_sum


def preemptions_of_sequences(added: Scrape, _: Scrape, replies: Replies) -> bool:
    in_sum = added["request_num_preemptions_sum",] == replies.sum("fastserve", "preemptions")
    return added["request_num_preemptions_count",] == replies.complete and in_sum


def at_least_usage(name: str, figure: str) -> Check:
    """The engine's counter: equal to the sum of usage, or above it by what became of sequences without one."""

    def check(added: Scrape, _: Scrape, replies: Replies) -> bool:
        seen = replies.sum("fastserve", figure)
        return added[name,] == seen if replies.exact else added[name,] >= seen

    return check


def queries(added: Scrape, _: Scrape, replies: Replies) -> bool:
    tokens = added["prefix_cache_queries_total",]
    least = replies.prompt_tokens_of_sequences
    return tokens == least if replies.exact else least <= tokens <= least + replies.cut_prompt_tokens


def hits(added: Scrape, _: Scrape, replies: Replies) -> bool:
    tokens, seen = added["prefix_cache_hits_total",], replies.sum("prompt_tokens_details", "cached_tokens")
    return tokens == seen if replies.only_lengths else seen <= tokens <= added["prefix_cache_queries_total",]


def iteration_tokens(added: Scrape, _: Scrape, replies: Replies) -> bool:
    """What iterations took in: prompts but for what was cached, outputs but for the last token, and some of it again."""
    tokens = added["iteration_tokens_total_sum",]
    prompts = added["prefix_cache_queries_total",] - added["prefix_cache_hits_total",]
    outputs = added["generation_tokens_total",] - replies.sequences
    needed = prompts + outputs + added["recomputed_tokens_total",]
    return tokens == needed if replies.only_lengths else tokens >= added["generation_tokens_total",] - replies.sequences


def bytes_of_blocks(name: str) -> Check:
    def check(added: Scrape, now: Scrape, replies: Replies) -> bool:
        must_move = replies.sum("fastserve", "host_s") > 0 and "store" in name
        return added[name,] % now["block_bytes",] == 0 and (added[name,] > 0 or not must_move)

    return check


def moves(name: str) -> Check:
    """Only policies with levels move requests between them."""
    return lambda added, _, replies: added[name,] >= 0 and (replies.policy in TIME_SLICED or added[name,] == 0)


def seconds_of_iterations(name: str) -> Check:
    def check(added: Scrape, _: Scrape, replies: Replies) -> bool:
        count = added["iteration_tokens_total_count",]
        return added[name + "_count",] == count > 0 and 0 < added[name + "_sum",] < replies.wall_s

    return check


def reasons(name: str, seen: Callable[[Replies], Counter]) -> Check:
    """A counter's series are what the clients saw, label by label."""

    def check(added: Scrape, _: Scrape, replies: Replies) -> bool:
        return +Counter({key[1]: int(value) for key, value in added.items() if key[0] == name}) == +seen(replies)

    return check


AUDIT: dict[str, Check] = {
    # requests
    "prompt_tokens": prompt_tokens,
    "prompt_tokens_cached": cached_tokens,
    "generation_tokens": generation_tokens,
    "request_success": reasons(ENDS, lambda replies: replies.ends),
    "admission_rejections": reasons("admission_rejections_total", lambda replies: replies.refused),
    "time_to_first_token_seconds": sequences_with_a_token,
    "inter_token_latency_seconds": further_tokens,
    "e2e_request_latency_seconds": end_to_end,
    "normalized_latency_seconds": counts("normalized_latency_seconds", lambda replies: replies.complete),
    "request_queue_time_seconds": queue_time,
    "request_inference_time_seconds": inference_time,
    "request_prefill_time_seconds": prefill_and_decode_time,
    "request_decode_time_seconds": prefill_and_decode_time,
    "request_time_per_output_token_seconds": gaps_of_sequences,
    "request_longest_gap_seconds": gaps_of_sequences,
    "request_max_num_generation_tokens": longest_reply,
    "request_params_n": params_n,
    "request_params_max_tokens": counts("request_params_max_tokens", lambda replies: replies.num_requests),
    "request_parked_time_seconds": parked_time,
    "request_num_preemptions": preemptions_of_sequences,
    "request_prompt_tokens": counts("request_prompt_tokens", lambda replies: replies.num_requests),
    "request_generation_tokens": lambda added, _, replies: (
        added["request_generation_tokens_count",] == replies.sequences
        and added["request_generation_tokens_sum",] == added["generation_tokens_total",]
    ),
    "engine_restarts": idle("engine_restarts_total"),
    # the engine
    "num_requests_running": idle("num_requests_running"),
    "num_requests_waiting": idle("num_requests_waiting"),
    "num_requests_parked": idle("num_requests_parked", ("device",), ("host",)),
    "level_requests": lambda _, now, replies: sum(v for key, v in now.items() if key[0] == "level_requests") == 0,
    "kv_cache_usage_perc": idle("kv_cache_usage_perc"),
    "host_kv_usage_perc": idle("host_kv_usage_perc"),
    "num_preemptions": at_least_usage("num_preemptions_total", "preemptions"),
    "recomputed_tokens": at_least_usage("recomputed_tokens_total", "recomputed_tokens"),
    "promotions": moves("promotions_total"),
    "demotions": moves("demotions_total"),
    "prefix_cache_queries": queries,
    "prefix_cache_hits": hits,
    "kv_offload_store_bytes": bytes_of_blocks("kv_offload_store_bytes_total"),
    "kv_offload_load_bytes": bytes_of_blocks("kv_offload_load_bytes_total"),
    "uploads": lambda added, _, replies: (
        (added["kv_offload_load_bytes_total",] == 0)
        or sum(added["uploads_total", result] for result in ("hit", "late", "wasted")) > 0
    ),
    "thrash_governor_trips": moves("thrash_governor_trips_total"),
    "iteration_tokens_total": iteration_tokens,
    "schedule_seconds": seconds_of_iterations("schedule_seconds"),
    "execute_seconds": seconds_of_iterations("execute_seconds"),
    "cache_config_info": lambda _, now, replies: now["cache_config_info",] == 1 and now["block_bytes",] > 0,
    "kernel_fallback": lambda _, now, replies: now["kernel_fallback", "attention", "native"] == 0,
}


async def scrape(live: Live, prefix: str = "fastserve:") -> Scrape:
    """Look at `/metrics`."""
    found, families = Scrape(), set()
    for family in text_string_to_metric_families((await live.http.get("/metrics")).text):
        if not family.name.startswith(prefix):
            continue
        families.add(family.name.removeprefix(prefix))
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine", "le")}
            name = sample.name.removeprefix(prefix)
            if name == "cache_config_info":
                found["block_bytes",] = float(labels["block_bytes"])
                labels = {}
            if not name.endswith("_bucket"):
                found[name, *labels.values()] = sample.value
    found.families = frozenset(families)
    return found


@pytest.fixture(params=POLICIES)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Live, str]]:
    """A server over an engine that has memory for two of its sequences."""
    config = engine_config(
        scheduling_policy=request.param,
        num_gpu_blocks_override=20,
        num_host_blocks_override=12,
        enable_prefix_caching=True,
        max_num_seqs=MAX_NUM_SEQS,
        max_num_batched_tokens=64,
        max_num_queued_reqs=MAX_QUEUED,
        starvation_limit_s=0.1,
        first_quantum_s=0.005,
    )
    engine = await AsyncEngine.start(config)
    try:
        async with live_server(engine, ServerConfig(metrics_compat="vllm", max_body_bytes=64 * 1024)) as live:
            yield live, request.param
    finally:
        await engine.close()


async def watch(live: Live) -> None:
    """While there is work every sequence is in one place, and no more run than may."""
    while True:
        now = await scrape(live)
        running = now["num_requests_running",]
        places = running + now["num_requests_waiting",]
        places += now["num_requests_parked", "device"] + now["num_requests_parked", "host"]
        assert places == sum(value for key, value in now.items() if key[0] == "level_requests")
        assert running <= MAX_NUM_SEQS
        assert 0 <= now["kv_cache_usage_perc",] <= 1 and 0 <= now["host_kv_usage_perc",] <= 1
        await asyncio.sleep(0.05)


async def until_idle(live: Live) -> Scrape:
    """The metrics once the engine has let go of all requests."""
    async with asyncio.timeout(30):
        while True:
            now = await scrape(live)
            busy = sum(v for k, v in now.items() if k[0] == "level_requests") or len(live.serving.in_flight)
            if not busy and now["kv_cache_usage_perc",] == now["host_kv_usage_perc",] == 0:
                return now
            await asyncio.sleep(0.01)


async def audited(
    live: Live, policy: str, seed: int, phase: Callable[[Clients], Awaitable[None]]
) -> tuple[Scrape, Scrape, Replies]:
    """Run a phase: what it added, what stands there after it, what the clients saw.

    On a busy machine a sequence may reach its end before its client, which sees it later, has left: whether it is
    complete is then not the clients' to say, and the phase is run again.
    """
    for _ in range(5):
        before, clients = await scrape(live), Clients(live, policy, seed)
        watcher = asyncio.create_task(watch(live))
        await phase(clients)
        assert not watcher.done(), watcher.exception()
        watcher.cancel()
        now = await until_idle(live)
        added, replies = now.since(before), clients.replies
        left, ended = replies.ends["abort"] - added[ENDS, "abort"], added[ENDS, "length"] - replies.ends["length"]
        if left <= 0:
            return added, now, replies
        assert left == ended
    pytest.fail("clients were late to leave, five times")


async def test_every_metric_is_what_clients_saw(served):
    live, policy = served
    assert (await scrape(live)).families == AUDIT.keys()
    preemptions = 0.0
    for seed, phase in enumerate((lengths, mixed, rough)):
        added, now, replies = await audited(live, policy, seed, phase)
        wrong = [name for name, check in AUDIT.items() if not check(added, now, replies)]
        assert not wrong, f"{phase.__name__}: {wrong}: {dict(added)}; clients: {replies}"
        assert await scrape(live, "vllm:") == await scrape(live)
        preemptions += added["num_preemptions_total",]
    assert preemptions > (100 if policy in TIME_SLICED else 0)
    assert replies.refused["overloaded"] > 0
    assert replies.ends["deadline"] > 0
