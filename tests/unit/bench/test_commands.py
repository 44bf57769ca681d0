"""`fastserve bench ...` from the command line: every flag arrives, every mistake is one line."""

import json

import numpy as np
import pytest

from fastserve.cli.bench import offline as offline_command
from fastserve.cli.main import main
from fastserve.types import CompletionOutput, FinishReason, RequestOutput
from tests.unit.bench.fake_openai import fake_openai
from tests.unit.tokenizer import tiny

SMALL = ("--num-prompts", "6", "--random-input-len", "8", "--random-output-len", "4")


class FakeLLM:
    """Answers with as many tokens as asked for."""

    class info:
        vocab_size = 50

    def __init__(self, model: str, **values: object) -> None:
        type(self).built, type(self).calls = (model, values), []

    def __enter__(self) -> "FakeLLM":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def generate(self, prompts, sampling, *, use_tqdm):
        sampling = sampling if isinstance(sampling, list) else [sampling] * len(prompts)
        type(self).calls.append((prompts, sampling))
        return [
            RequestOutput(prompt=None, prompt_token_ids=tuple(prompt), outputs=(
                CompletionOutput(index=0, text="", token_ids=(1,) * params.max_tokens,
                                 finish_reason=FinishReason.LENGTH, error="broken" if prompt[0] == -1 else None),
            ))
            for prompt, params in zip(prompts, sampling, strict=True)
        ]  # fmt: skip


@pytest.fixture
def llm(monkeypatch):
    load = offline_command.load
    monkeypatch.setattr(offline_command, "load", lambda target: FakeLLM if target.endswith(":LLM") else load(target))
    return FakeLLM


def serve(*flags: object) -> int:
    return main(["bench", "serve", *map(str, flags)])


def test_serve_prints_and_saves_figures_under_vllms_names(tmp_path, capsys):
    with fake_openai() as fake:
        code = serve("--base-url", fake.url, *SMALL, "--request-rate", 200, "--ignore-eos", "--save-detailed",
                     "--result-dir", tmp_path, "--result-filename", "r.json", "--metadata", "chip=x",
                     "--goodput", "ttft:10000", "--metric-percentiles", "50,90", "--num-warmups", 2)  # fmt: skip
    assert code == 0
    result = json.loads((tmp_path / "r.json").read_text())
    for key in (
        "duration", "completed", "total_input_tokens", "total_output_tokens", "request_throughput", "request_goodput",
        "output_throughput", "total_token_throughput", "mean_ttft_ms", "median_ttft_ms", "std_ttft_ms", "p90_ttft_ms",
        "mean_tpot_ms", "mean_itl_ms", "mean_e2el_ms", "mean_normalized_ms",
    ):  # fmt: skip
        assert result[key] is not None, key
    assert result["completed"] == result["num_prompts"] == 6 and result["total_output_tokens"] == 24
    assert (result["model_id"], result["chip"], result["request_rate"]) == ("fake", "x", 200.0)
    assert result["input_lens"] == [8] * 6 and len(result["ttfts"]) == len(result["itls"]) == 6
    assert len(fake.bodies) == 8  # two to warm up, with prompts of their own
    prompts = [tuple(body["prompt"]) for body in fake.bodies]
    assert not set(prompts[:2]) & set(prompts[2:]) and max(map(max, prompts)) < 1000
    out = capsys.readouterr().out
    assert "Completed requests" in out and "p90 (ms)" in out and "goodput" in out


@pytest.mark.parametrize(
    ("flags", "check"),
    [
        (["--model", "other"], lambda body: body["model"] == "other"),
        (["--temperature", 0.5], lambda body: body["temperature"] == 0.5),
        (["--vocab-size", 10], lambda body: max(body["prompt"]) < 10),
        (["--extra-body", '{"top_k": 3}'], lambda body: body["top_k"] == 3),
        (["--priority-shares", "4:1"], lambda body: body["priority"] == 4),
        (["--ignore-eos"], lambda body: body["ignore_eos"] is True),
        ([], lambda body: body["ignore_eos"] is True),  # synthetic lengths are exact
        (["--no-ignore-eos"], lambda body: "ignore_eos" not in body),
    ],
)
def test_request_flags_reach_the_server(flags, check):
    with fake_openai() as fake:
        assert serve("--base-url", fake.url, *SMALL, "--num-warmups", 0, *flags) == 0
    assert len(fake.bodies) == 6 and all(map(check, fake.bodies))


def test_lengths_of_a_file_are_upper_limits_unless_asked_for(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("input_tokens,output_tokens\n5,3\n")
    with fake_openai() as fake:
        for flags in ([], ["--ignore-eos"]):
            base = ("--base-url", fake.url, "--trace", path, "--num-prompts", 1, "--num-warmups", 0)
            assert serve(*base, *flags) == 0
    assert ["ignore_eos" in body for body in fake.bodies] == [False, True]


def test_concurrency_endpoint_and_host_and_port(capsys):
    with fake_openai(token_s=0.01) as fake:
        port = fake.url.rpartition(":")[2]
        assert serve("--port", port, *SMALL, "--max-concurrency", 2, "--endpoint", "/v1/completions") == 0
        assert fake.most_running == 2
        assert serve("--port", port, *SMALL, "--endpoint", "/v1/nothing") == 1
    assert "the warm-up request failed: HTTP 404" in capsys.readouterr().err


def test_failed_requests_are_reported_and_make_the_exit_code_1(tmp_path, capsys):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "the quick", "output_tokens": 3}\n\n{"prompt": "the dog"}\n')
    folder = tiny.save(tmp_path / "tokenizer")
    with fake_openai(token_s=10.0) as fake:
        code = serve("--base-url", fake.url, "--dataset-name", "custom", "--dataset-path", path, "--tokenizer", folder,
                     "--num-prompts", 2, "--random-output-len", 7, "--num-warmups", 0, "--request-timeout-s", 0.2)  # fmt: skip
    assert code == 1 and "2 x timeout" in capsys.readouterr().out
    assert sorted(body["max_tokens"] for body in fake.bodies) == [3, 7]


def test_text_datasets_are_tokenized_and_bad_ones_named(tmp_path, capsys):
    folder = tiny.save(tmp_path / "tokenizer")
    path = tmp_path / "sharegpt.json"
    turns = [{"from": "human", "value": "the quick brown fox"}, {"from": "gpt", "value": "jumps over the dog"}]
    path.write_text(json.dumps([{"conversations": turns}, {"conversations": turns[:1]}, {}]))
    flags = ["--dataset-path", path, "--num-prompts", 2, "--num-warmups", 0]
    with fake_openai() as fake:
        assert serve("--base-url", fake.url, "--dataset-name", "sharegpt", "--tokenizer", folder, *flags) == 0
        assert fake.bodies[0]["prompt"] == fake.bodies[1]["prompt"]
        assert serve("--base-url", fake.url, "--dataset-name", "sharegpt", *flags) == 2
        assert "needs --tokenizer" in capsys.readouterr().err
        for text, message in (('{"prompt": 3}', "x.jsonl:1: a line must be"), ("nope", "x.jsonl:1: not JSON"),
                              ('{"prompt": "a", "output_tokens": 0}', "output_tokens must be at least 1, got 0"),
                              ("", "at least one prompt")):  # fmt: skip
            bad = tmp_path / "x.jsonl"
            bad.write_text(text)
            assert serve("--dataset-name", "custom", "--tokenizer", folder, "--dataset-path", bad) == 2
            assert message in capsys.readouterr().err


def test_plots_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    with fake_openai() as fake:
        assert serve("--base-url", fake.url, *SMALL, "--plot", tmp_path / "run.png") == 0
        code = main(["bench", "sweep", "--base-url", fake.url, "--compare-url", fake.url, "--random-output-len", "2",
                     "--min-rate", "100", "--max-rate", "200", "--resolution", "2", "--min-requests", "5",
                     "--seconds-per-rate", "0", "--slo", "mean_ttft_ms:10000", "--result-filename",
                     str(tmp_path / "s.json"), "--plot", str(tmp_path / "sweep.svg")])  # fmt: skip
    assert code == 0
    assert (tmp_path / "run.png").stat().st_size > 1000 and (tmp_path / "sweep.svg").stat().st_size > 1000
    servers = json.loads((tmp_path / "s.json").read_text())["servers"]
    assert [run["request_rate"] for run in servers["compare"]["runs"]] == [100.0, 200.0]
    assert servers["base"]["rate"] == 200.0 and not servers["base"]["is_bounded"]
    prompts = [tuple(body["prompt"]) for body in fake.bodies[-20:]]
    assert len(set(prompts)) == 10  # both servers get the same prompts, other ones at each rate


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serve", "--base-url", "localhost:1"], "base URL must begin with http://"),
        (["serve", "--metric-percentiles", "101"], "--metric-percentiles must be numbers between 0 and 100"),
        (["serve", "--percentile-metrics", "speed"], "--percentile-metrics must be of ttft"),
        (["serve", "--goodput", "fast:1"], "a limit must be METRIC:MILLISECONDS"),
        (["serve", "--plot", "/nowhere/x.png"], "a plot must be a file"),
        (["serve", "--plot", "x.bmp"], "a plot must be a file"),
        (["serve", "--save-result", "--result-dir", "/dev/null/x"], "--result-dir must be a folder"),
        (["serve", "--metadata", "x"], "--metadata must be KEY=VALUE"),
        (["serve", "--extra-body", "[1]"], "--extra-body must be a JSON object"),
        (["serve", "--num-warmups", "-1"], "--num-warmups must be at least 0"),
        (["serve", "--request-timeout-s", "0"], "--request-timeout-s must be above 0"),
        (["serve", "--max-concurrency", "0"], "max_concurrency must be at least 1"),
        (["sweep", "--request-rate", "3"], "leave --request-rate and --replay out"),
        (["sweep", "--min-requests", "0"], "--min-requests must be at least 1"),
        (["sweep", "--slo", "fast"], "an SLO must be FIGURE:MILLISECONDS"),
        (["latency", "m", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["nothing"], "invalid choice"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    try:
        code = main(["bench", *words])
    except SystemExit as stop:
        code = stop.code
    err = capsys.readouterr().err
    assert code == 2 and message in err and err.count("\n") == 1


def test_server_that_is_not_there_is_said_to_be(capsys):
    assert serve("--port", 9) == 1
    assert "does not answer" in capsys.readouterr().err


def test_latency_times_equal_batches(llm, tmp_path, capsys):
    path = tmp_path / "l.json"
    words = [
        "--input-len",
        "5",
        "--output-len",
        "6",
        "--batch-size",
        "3",
        "--num-iters-warmup",
        "1",
        "--num-iters",
        "4",
    ]
    assert main(["bench", "latency", "m", *words, "--max-num-seqs", "7", "--output-json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert len(figures["latencies"]) == 4 and set(figures["percentiles"]) == {"10", "25", "50", "75", "90", "99"}
    assert llm.built[1]["max_num_seqs"] == 7 and len(llm.calls) == 5
    prompts, sampling = llm.calls[0]
    assert [len(prompt) for prompt in prompts] == [5] * 3 and sampling[0].max_tokens == 6 and sampling[0].ignore_eos
    assert prompts != llm.calls[1][0]
    assert "mean latency" in capsys.readouterr().out


def test_throughput_runs_a_workload(llm, tmp_path, capsys):
    path = tmp_path / "t.json"
    assert main(["bench", "throughput", "m", *SMALL, "--seed", "3", "--output-json", str(path)]) == 0
    figures = json.loads(path.read_text())
    assert (figures["num_requests"], figures["total_num_tokens"], figures["total_output_tokens"]) == (6, 72, 24)
    assert figures["tokens_per_second"] == pytest.approx(72 / figures["elapsed_time"])
    assert llm.built[1]["seed"] == 3
    assert "requests/s" in capsys.readouterr().out


def test_offline_failures_are_reported(llm, monkeypatch, capsys):
    monkeypatch.setattr("fastserve.workload.Workload.prompt_ids", lambda *_: np.array([-1]))
    assert main(["bench", "throughput", "m", *SMALL]) == 1
    assert "request 0 failed: broken" in capsys.readouterr().err
