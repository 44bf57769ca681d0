"""Flags and result fields that `vllm bench serve` has as well: the lists are those of vLLM 0.32.0."""

import argparse
import json

import pytest

from fastserve.cli.bench.serve import add_arguments
from fastserve.cli.main import main
from tests.unit.bench.fake_openai import fake_openai

# Of a run with the backend openai and --goodput; the second group comes with --save-detailed.
FIELDS = (
    "date", "endpoint_type", "backend", "label", "model_id", "tokenizer_id", "num_prompts", "request_rate", "burstiness",
    "max_concurrency", "duration", "completed", "failed", "total_input_tokens", "total_output_tokens", "request_throughput",
    "request_goodput", "output_throughput", "total_token_throughput", "max_output_tokens_per_s", "max_concurrent_requests",
)  # fmt: skip
DETAILED_FIELDS = ("input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times", "errors")
METRICS = ("ttft", "tpot", "itl", "e2el")
# rtfx is of audio; generated_texts are not kept.
ONLY_VLLM_FIELDS = ("rtfx", "generated_texts")
ONLY_OUR_FIELDS = (
    "base_url", "endpoint", "seed", "error_counts", "error_samples", "peak_concurrent_requests",
    "mean_send_lateness_ms", "p99_send_lateness_ms", "max_send_lateness_ms", "kept_offered_rate",
)  # fmt: skip
ONLY_OUR_DETAILED_FIELDS = ("due_times",)

FLAGS = (
    "--append-result", "--asr-max-audio-len-sec", "--asr-min-audio-len-sec", "--backend", "--base-url", "--bfcl-categories",
    "--blazedit-max-distance", "--blazedit-min-distance", "--burstiness", "--chat-template-kwargs",
    "--custom-ensure-client-side-data", "--custom-output-len", "--dataset-name", "--dataset-path", "--disable-shuffle",
    "--disable-tqdm", "--enable-multimodal-chat", "--endpoint", "--extra-body", "--frequency-penalty", "--goodput",
    "--header", "--help", "--hf-name", "--hf-output-len", "--hf-split", "--hf-subset", "--host", "--ignore-eos",
    "--input-len", "--insecure", "--label", "--logprobs", "--lora-assignment", "--lora-modules", "--max-concurrency",
    "--metadata", "--metric-percentiles", "--min-p", "--model", "--no-oversample", "--no-reranker", "--no-stream",
    "--num-prompts", "--num-warmups", "--output-len", "--percentile-metrics", "--plot-dataset-stats", "--plot-timeline",
    "--port", "--prefix-repetition-num-prefixes", "--prefix-repetition-output-len", "--prefix-repetition-prefix-len",
    "--prefix-repetition-suffix-len", "--presence-penalty", "--probe-request-rate", "--profile", "--ramp-up-end-rps",
    "--ramp-up-start-rps", "--ramp-up-strategy", "--random-batch-size", "--random-input-len",
    "--random-mm-base-items-per-request", "--random-mm-bucket-config", "--random-mm-limit-mm-per-prompt",
    "--random-mm-num-mm-items-range-ratio", "--random-output-len", "--random-prefix-len", "--random-range-ratio",
    "--ready-check-timeout-sec", "--repetition-penalty", "--request-id-prefix", "--request-rate", "--result-dir",
    "--result-filename", "--save-detailed", "--save-result", "--seed", "--self-timed", "--served-model-name",
    "--sharegpt-output-len", "--skip-chat-template", "--skip-tokenizer-init", "--spec-bench-category",
    "--spec-bench-output-len", "--speed-bench-category", "--speed-bench-dataset-subset", "--speed-bench-output-len",
    "--temperature", "--timed-trace-chunk-hash-size", "--timed-trace-label-hash-ids", "--timed-trace-label-input-length",
    "--timed-trace-label-output-length", "--timed-trace-label-timestamp", "--timed-trace-sec-multiplier",
    "--timeline-itl-thresholds", "--tokenizer", "--tokenizer-mode", "--top-k", "--top-p", "--trust-remote-code",
    "--use-beam-search",
)  # fmt: skip
ONLY_OUR_FLAGS = (
    "--api-key", "--length-scale", "--lognormal-sigma", "--max-input-len", "--max-total-len", "--multi-turn",
    "--no-ignore-eos", "--plot", "--priority-shares", "--replay", "--replay-speed", "--request-timeout-s", "--think-time-s",
    "--trace", "--vocab-size",
)  # fmt: skip
# What every script that calls `vllm bench serve` is likely to give.
SHARED_FLAGS = (
    "--backend", "--base-url", "--burstiness", "--dataset-name", "--dataset-path", "--endpoint", "--extra-body", "--goodput",
    "--host", "--ignore-eos", "--label", "--max-concurrency", "--metadata", "--metric-percentiles", "--model",
    "--num-prompts", "--num-warmups", "--percentile-metrics", "--port", "--ramp-up-end-rps", "--ramp-up-start-rps",
    "--ramp-up-strategy", "--random-input-len", "--random-output-len", "--random-range-ratio", "--request-rate",
    "--result-dir", "--result-filename", "--save-detailed", "--save-result", "--seed", "--temperature", "--tokenizer",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    add_arguments(made)
    return made


def saved(folder, *flags: str) -> dict[str, object]:
    """The result of a small run with the flags that vLLM's users know."""
    with fake_openai() as fake:
        words = ("--base-url", fake.url, "--num-prompts", "4", "--random-input-len", "8", "--random-output-len", "4",
                 "--num-warmups", "0", "--percentile-metrics", ",".join(METRICS), "--metric-percentiles", "50,99.9",
                 "--goodput", "ttft:1000", "--result-dir", str(folder))  # fmt: skip
        assert main(["bench", "serve", *words, *flags]) == 0
    (path,) = folder.iterdir()
    return json.loads(path.read_text()) | {"file": path.name}


def test_flags_of_both_are_the_shared_ones():
    ours = {word for action in parser()._actions for word in action.option_strings if word.startswith("--")}
    assert ours & set(FLAGS) == set(SHARED_FLAGS) | {"--help"}
    assert ours - set(FLAGS) == set(ONLY_OUR_FLAGS)


@pytest.mark.parametrize(
    ("flag", "default"),
    [("backend", "openai"), ("endpoint", "/v1/completions"), ("request_rate", float("inf")), ("burstiness", 1.0),
     ("max_concurrency", None), ("random_input_len", 1024), ("random_output_len", 128), ("random_range_ratio", 0.0),
     ("seed", 0), ("goodput", None), ("host", "127.0.0.1"), ("port", 8000)],
)  # fmt: skip
def test_defaults_are_those_of_vllm(flag, default):
    assert getattr(parser().parse_args([]), flag) == default


def test_a_result_has_vllms_fields_and_few_others(tmp_path):
    result = saved(tmp_path / "r", "--save-result")
    statistics = {f"{s}_{m}_ms" for s in ("mean", "median", "std", "p50", "p99.9") for m in METRICS}
    assert set(result) == {*FIELDS, *statistics, *ONLY_OUR_FIELDS, "file"}


def test_a_detailed_result_has_vllms_lists(tmp_path):
    plain, detailed = saved(tmp_path / "a", "--save-result"), saved(tmp_path / "b", "--save-result", "--save-detailed")
    assert set(detailed) - set(plain) == {*DETAILED_FIELDS, *ONLY_OUR_DETAILED_FIELDS}
    assert all(len(detailed[name]) == 4 for name in DETAILED_FIELDS)
    assert not {*DETAILED_FIELDS, *FIELDS} & set(ONLY_VLLM_FIELDS)


def test_file_and_facts_are_named_as_vllm_names_them(tmp_path):
    flags = (
        "--save-result",
        "--label",
        "mine",
        "--max-concurrency",
        "3",
        "--model",
        "org/small",
        "--metadata",
        "chip=x",
    )
    result = saved(tmp_path / "new" / "folder", *flags)
    assert result["file"].startswith("mine-infqps-concurrency3-small-") and result["file"].endswith(".json")
    assert (result["label"], result["backend"], result["endpoint_type"]) == ("mine", "openai", "openai")
    assert (result["model_id"], result["request_rate"], result["max_concurrency"]) == ("org/small", "inf", 3)
    assert result["chip"] == "x"


def test_a_ramp_up_is_part_of_file_and_facts(tmp_path):
    ramp = ("--ramp-up-strategy", "linear", "--ramp-up-start-rps", "50", "--ramp-up-end-rps", "100")
    result = saved(tmp_path / "r", "--save-result", "--model", "m", *ramp)
    assert result["file"].startswith("openai-ramp-up-linear-50.0qps-100.0qps-m-")
    assert (result["ramp_up_strategy"], result["ramp_up_start_rps"], result["ramp_up_end_rps"]) == ("linear", 50, 100)
    assert result["request_rate"] == "inf"
