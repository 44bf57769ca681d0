"""A value out of its range, of another type or no choice is refused with the field, the rule and the value."""

import dataclasses
import math

import pytest

from fastserve._C.sched import SchedulerConfig as CoreConfig
from fastserve.config import CacheConfig, ModelConfig, ParallelConfig, SchedulerConfig, ServerConfig
from fastserve.errors import InvalidArgumentError

NAN = math.nan
BETWEEN_1_AND_INT = "must be between 1 and 2147483647, got"
BETWEEN_1_AND_MOST_TOKENS = "must be between 1 and 1073741824, got"
# Class, field, bad values, what the message says besides the field and the value.
BAD = [
    (ModelConfig, "model", [None, 3], "must be a text"),
    (ModelConfig, "tokenizer", [3], "must be a text"),
    (ModelConfig, "revision", [7], "must be a text"),
    (ModelConfig, "download_dir", [7], "must be a text"),
    (ModelConfig, "generation_config", [None, {}], "must be a text"),
    (ModelConfig, "override_generation_config", ['{"top_k": 1}', []], "must be an object"),
    (ModelConfig, "dtype", ["int4", None], "must be one of auto, float32, bfloat16, float16"),
    (ModelConfig, "max_model_len", [1, -5, 2**31], "must be between 2 and 2147483647 tokens"),
    (ModelConfig, "load_format", ["pickle"], "must be one of safetensors, dummy"),
    (ModelConfig, "device", ["tpu"], "must be one of auto, cpu, cuda"),
    (ModelConfig, "attention_backend", ["flash"], "must be one of auto, native, mma, torch"),
    (ModelConfig, "enforce_eager", ["no"], "must be true or false"),
    (ModelConfig, "seed", [2**63, -(2**63) - 1], f"must be between {-(2**63)} and {2**63 - 1}"),
    (ModelConfig, "seed", [0.5, None], "must be an integer"),
    (ModelConfig, "num_threads", [0, 1025], "must be between 1 and 1024"),
    (ParallelConfig, "tensor_parallel_size", [0, 65], "must be between 1 and 64 ranks"),
    (ParallelConfig, "pipeline_parallel_size", [0, 65], "must be between 1 and 64 stages"),
    (ParallelConfig, "distributed_executor_backend", ["ray"], "must be one of auto, inproc, mp"),
    (ParallelConfig, "distributed_timeout_s", [0.0, NAN], "must be above 0 and at most 1e+06 seconds"),
    (CacheConfig, "block_size", [0, 12, 64], "must be 8, 16 or 32 tokens"),
    (CacheConfig, "num_gpu_blocks_override", [0, 2**31], BETWEEN_1_AND_INT),
    (CacheConfig, "kv_gib", [0.0, -1.0, NAN, math.inf], "must be above 0 and at most 1e+06 GiB"),
    (CacheConfig, "gpu_memory_utilization", [0.0, 1.1, NAN], "must be above 0 and at most 1"),
    (CacheConfig, "host_kv_gib", [-0.5, NAN, math.inf], "must be between 0 and 1000000 GiB"),
    (CacheConfig, "num_host_blocks_override", [-1, 2**31], "must be between 0 and 2147483647"),
    (CacheConfig, "allow_pageable_host_kv", [1, None], "must be true or false"),
    (CacheConfig, "enable_prefix_caching", [1, "yes", None], "must be true or false"),
    (CacheConfig, "kv_canary", ["off"], "must be true or false"),
    (
        SchedulerConfig,
        "scheduling_policy",
        ["lifo"],
        "must be one of learned, slo, skip-join-mlfq, mlfq, fcfs, priority",
    ),
    (SchedulerConfig, "max_num_seqs", [0, 2**30 + 1, 2**31, 2**63 - 1], BETWEEN_1_AND_MOST_TOKENS),
    (SchedulerConfig, "max_num_seqs", [4.0, "4", True, None], "must be an integer"),
    (SchedulerConfig, "max_num_batched_tokens", [0], BETWEEN_1_AND_MOST_TOKENS),
    (SchedulerConfig, "max_num_batched_tokens", [255], r"must be at least max_num_seqs \(256\)"),
    (SchedulerConfig, "max_prefill_chunk_tokens", [0], BETWEEN_1_AND_MOST_TOKENS),
    (SchedulerConfig, "starvation_limit_s", [0.0, NAN, math.inf], "must be above 0 and at most 1e+09 seconds"),
    (SchedulerConfig, "max_pause_s", [0.0, -1.0, NAN, math.inf], "must be above 0 and at most 1e+09 seconds"),
    (SchedulerConfig, "ttft_slo_s", [0.0, -1.0, NAN, math.inf], "must be above 0 and at most 1e+09 seconds"),
    (SchedulerConfig, "tpot_slo_s", [0.0, -1.0, NAN, math.inf], "must be above 0 and at most 1e+09 seconds"),
    (SchedulerConfig, "starvation_limit_s", ["3"], "must be a number"),
    (SchedulerConfig, "quantum_ratio", [1.0, 0.5, 1025.0, NAN], "must be above 1 and at most 1024"),
    (SchedulerConfig, "first_quantum_s", [0.0, -1.0, NAN], "must be above 0 and at most 1e+09 seconds"),
    (SchedulerConfig, "num_levels", [0, 65], "must be between 1 and 64"),
    (SchedulerConfig, "length_half_life", [0.0, -1.0, NAN], "must be above 0 and at most 1e+09 requests"),
    (SchedulerConfig, "min_length_observations", [0, 2**31], "must be between 1 and 2147483647 requests"),
    (SchedulerConfig, "preemption_mode", ["drop"], "must be one of auto, swap, recompute"),
    (SchedulerConfig, "proactive_offload", [0], "must be true or false"),
    (SchedulerConfig, "write_through", [0], "must be true or false"),
    (SchedulerConfig, "max_num_seqs", [2**63, -(2**70)], "must be a number of 64 bits, got"),
    (SchedulerConfig, "reserve_iterations", [-1], "must be between 0 and 1073741824"),
    (SchedulerConfig, "upload_margin", [-0.01, 1.01, NAN], "must be between 0 and 1"),
    (SchedulerConfig, "upload_margin", ["5%"], "must be a number"),
    (SchedulerConfig, "max_parks_per_request", [0], BETWEEN_1_AND_INT),
    (SchedulerConfig, "thrash_parks_per_finish", [0.0, NAN], "must be above 0 and at most 1e+09"),
    (SchedulerConfig, "max_num_queued_reqs", [0], BETWEEN_1_AND_INT),
    (SchedulerConfig, "async_scheduling", [None], "must be true or false"),
    (ServerConfig, "host", [None], "must be a text"),
    (ServerConfig, "port", [-1, 65536], "must be between 0 and 65535"),
    (ServerConfig, "api_key", [("",), ("good", " \t")], "must not be blank; leave it out"),
    (ServerConfig, "api_key", ["secret", ["secret"], (1,), None], "must be a tuple of texts"),
    (ServerConfig, "api_keys_file", [7], "must be a text"),
    (ServerConfig, "served_model_name", ["name", (7,)], "must be a tuple of texts"),
    (ServerConfig, "served_model_name", [("a", " ")], "must have no blank name"),
    (ServerConfig, "uds", [7], "must be a text"),
    (ServerConfig, "root_path", ["llm", "/llm/", "/"], "must begin with a slash and not end with one"),
    (ServerConfig, "ssl_certfile", [7], "must be a text"),
    (ServerConfig, "ssl_keyfile", [7], "must be a text"),
    (ServerConfig, "ssl_ca_certs", [7], "must be a text"),
    (ServerConfig, "ssl_cert_reqs", [-1, 3], "must be between 0 and 2"),
    (ServerConfig, "ssl_ciphers", [7], "must be a text"),
    (ServerConfig, "allowed_origins", ["*"], "must be a tuple of texts"),
    (ServerConfig, "allowed_methods", ["*"], "must be a tuple of texts"),
    (ServerConfig, "allowed_headers", ["*"], "must be a tuple of texts"),
    (ServerConfig, "allow_credentials", [1], "must be true or false"),
    (ServerConfig, "disable_fastapi_docs", [1], "must be true or false"),
    (ServerConfig, "uvicorn_log_level", ["trace"], "must be one of debug, info, warning, error, critical"),
    (ServerConfig, "chat_template", [7], "must be a text"),
    (ServerConfig, "default_chat_template_kwargs", [7], "must be an object"),
    (ServerConfig, "enable_auto_tool_choice", [1], "must be true or false"),
    (ServerConfig, "tool_call_parser", ["robot"], "must be one of hermes, llama3_json, mistral, json"),
    (ServerConfig, "exclude_tools_when_tool_choice_none", [1], "must be true or false"),
    (ServerConfig, "reasoning_parser", ["robot"], "must be one of qwen3, deepseek_r1"),
    (ServerConfig, "max_body_bytes", [0, 1023], "must be between 1024 and 1099511627776 bytes"),
    (ServerConfig, "shutdown_timeout", [-1.0, NAN, math.inf], "must be between 0 and 1000000 seconds"),
    (ServerConfig, "heartbeat_limit_s", [0.0, NAN], "must be above 0 and at most 1e+09 seconds"),
    (ServerConfig, "restart_engine", ["yes"], "must be true or false"),
    (ServerConfig, "max_engine_restarts", [0, -1], "must be between 1 and 1000000 restarts"),
    (ServerConfig, "metrics_compat", ["openai"], "must be one of none, vllm"),
    (ServerConfig, "log_level", ["INFO", "trace"], "must be one of debug, info, warning, error"),
    (ServerConfig, "strict_fields", ["true"], "must be true or false"),
    (ServerConfig, "json_logs", ["true"], "must be true or false"),
    (ServerConfig, "record", [7], "must be a text"),
    (ServerConfig, "record_prompts", [1], "must be true or false"),
]


@pytest.mark.parametrize(
    ("config_class", "field", "value", "rule"),
    [(config_class, field, value, rule) for config_class, field, values, rule in BAD for value in values],
)
def test_a_bad_value_is_refused_with_its_field_the_rule_and_the_value(config_class, field, value, rule):
    with pytest.raises(InvalidArgumentError, match=f"^{field} {rule.replace('+', '[+]')}") as caught:
        config_class(**{field: value})
    if field != "api_key":  # a key is not repeated
        assert str(caught.value).endswith(f"got {value!r}" if isinstance(value, str) else f"got {value}")


def test_every_field_has_bad_values():
    fields = {
        (c, f.name)
        for c in (ModelConfig, CacheConfig, ParallelConfig, SchedulerConfig, ServerConfig)
        for f in dataclasses.fields(c)
    }
    assert fields == {(config_class, field) for config_class, field, _, _ in BAD}


@pytest.mark.parametrize(
    ("config_class", "values"),
    [
        (ModelConfig, {"max_model_len": 2, "seed": -(2**63), "num_threads": 1024}),
        (CacheConfig, {"block_size": 8, "num_gpu_blocks_override": 1, "num_host_blocks_override": 0, "kv_gib": 1}),
        (CacheConfig, {"block_size": 32, "host_kv_gib": 0}),
        (SchedulerConfig, {"max_num_seqs": 1, "max_num_batched_tokens": 1, "max_prefill_chunk_tokens": 1}),
        (
            SchedulerConfig,
            {"quantum_ratio": 1024, "num_levels": 64, "starvation_limit_s": 1e9, "reserve_iterations": 1},
        ),
        (ServerConfig, {"port": 65535, "max_body_bytes": 1024, "shutdown_timeout": 0}),
    ],
)
def test_the_ends_of_the_ranges_are_accepted(config_class, values):
    config = config_class(**values)
    assert {name: getattr(config, name) for name in values} == values


def test_the_core_has_a_setting_for_each_of_the_schedulers_but_those_of_the_engine_loop():
    deployment = {"max_model_len", "num_stages", "block_bytes", "offload_bytes_per_s", "upload_bytes_per_s"}
    core = {name for name, kind in vars(CoreConfig).items() if isinstance(kind, property)} - deployment - {"policy"}
    engine = {"scheduling_policy", "max_num_queued_reqs", "async_scheduling"}
    assert core == {field.name for field in dataclasses.fields(SchedulerConfig)} - engine


def test_every_setting_reaches_the_core():
    chosen = SchedulerConfig(
        scheduling_policy="slo",
        max_num_seqs=7,
        ttft_slo_s=0.5,
        num_levels=3,
        write_through=False,
        preemption_mode="swap",
    )
    core = chosen.core()
    assert (core.policy, core.max_num_seqs, core.ttft_slo_s, core.tpot_slo_s) == ("slo", 7, 0.5, None)
    assert (core.num_levels, core.write_through, core.preemption_mode) == (3, False, "swap")
    assert core.starvation_limit_s == SchedulerConfig().starvation_limit_s


def test_a_core_setting_that_does_not_exist_is_refused():
    with pytest.raises(TypeError, match="no setting max_seqs"):
        CoreConfig(max_seqs=3)


def test_objectives_make_slo_the_policy() -> None:
    assert SchedulerConfig().policy == "learned"
    assert SchedulerConfig(ttft_slo_s=1.0).policy == "slo"
    assert SchedulerConfig(tpot_slo_s=0.05).policy == "slo"
    with pytest.raises(InvalidArgumentError, match="belong to the policy slo, not to fcfs"):
        SchedulerConfig(scheduling_policy="fcfs", tpot_slo_s=0.05)


def test_several_ranks_are_processes_and_one_is_where_it_is_asked_for() -> None:
    assert not ParallelConfig().has_rank_processes
    assert ParallelConfig(tensor_parallel_size=2).has_rank_processes
    assert ParallelConfig(distributed_executor_backend="mp").has_rank_processes
    assert ParallelConfig(pipeline_parallel_size=2).has_rank_processes
    for sizes in ((2, 1), (1, 2)):
        tensor, pipeline = sizes
        rule = f"inproc runs one rank, got tensor_parallel_size {tensor} and pipeline_parallel_size {pipeline}: use mp or auto"
        with pytest.raises(InvalidArgumentError, match=rule):
            ParallelConfig(
                tensor_parallel_size=tensor, pipeline_parallel_size=pipeline, distributed_executor_backend="inproc"
            )


def test_ranks_of_all_stages_are_counted() -> None:
    parallel = ParallelConfig(tensor_parallel_size=2, pipeline_parallel_size=3)
    assert parallel.num_ranks == 6
    assert [parallel.stage_of(rank) for rank in range(6)] == [0, 0, 1, 1, 2, 2]
    with pytest.raises(InvalidArgumentError, match="16 times pipeline_parallel_size 8 makes 128 ranks: at most 64"):
        ParallelConfig(tensor_parallel_size=16, pipeline_parallel_size=8)
