"""`fastserve simulate` and `fastserve profile`: flags in, text, JSON and files out."""

import csv
import json

import pytest

from fastserve.cli.main import main
from tests.checkpoints import tiny_checkpoint

LOAD = ["--dataset-name", "random", "--random-input-len", "50", "--random-output-len", "20", "--num-prompts", "30"]
RUN = ["simulate", "opt-13b", "--max-num-seqs", "8", "--request-rate", "5", *LOAD]


def simulate(capsys, *flags: str) -> str:
    assert main([*RUN, *flags]) == 0
    return capsys.readouterr().out


def test_one_run_is_reported_in_full(capsys):
    text = simulate(capsys, "--scheduling-policy", "fcfs")
    for word in (
        "fcfs on opt-13b on a100-80gb",
        "normalised latency",
        "first token",
        "p99",
        "throughput",
        "30",
        "swaps",
    ):
        assert word in text


def test_json_and_csv_say_the_same(capsys, tmp_path):
    path = tmp_path / "requests.csv"
    summary = json.loads(simulate(capsys, "--json", "--requests-csv", str(path)))["summary"]
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(rows) == summary["num_requests"] == 30
    latencies = [(float(r["finish_s"]) - float(r["arrival_s"])) / int(r["output_tokens"]) for r in rows]
    assert summary["normalized_latency_s"]["mean"] == pytest.approx(sum(latencies) / 30)
    assert summary["normalized_latency_s"]["max"] == pytest.approx(max(latencies))


def test_policies_and_rates_are_compared_side_by_side(capsys):
    flags = ("--compare", "fcfs, srpt", "--sweep-rate", "1,1000")
    runs = json.loads(simulate(capsys, *flags, "--json"))
    assert [(run["request_rate"], run["policy"]) for run in runs] == [
        (1.0, "fcfs"),
        (1.0, "srpt"),
        (1000.0, "fcfs"),
        (1000.0, "srpt"),
    ]
    text = simulate(capsys, *flags)
    assert len(text.splitlines()) == 2 + 1 + 4
    assert runs[2]["summary"]["e2e_s"]["mean"] > runs[0]["summary"]["e2e_s"]["mean"]


def test_two_processes_worth_of_calls_print_the_same_bytes(capsys):
    assert simulate(capsys, "--seed", "3", "--json") == simulate(capsys, "--seed", "3", "--json")
    assert simulate(capsys, "--seed", "3", "--json") != simulate(capsys, "--seed", "4", "--json")


def test_flags_of_the_hardware_change_the_outcome(capsys):
    def mean(*flags: str) -> float:
        return json.loads(simulate(capsys, "--json", *flags))["summary"]["e2e_s"]["mean"]

    base = mean()
    assert mean("--device", "h100") < base
    assert mean("--tensor-parallel-size", "2") < base
    assert mean("--layer-overhead-us", "1000") > base
    assert mean("--dtype", "float32") > base


def test_costs_of_the_engine_slow_every_iteration(capsys):
    def mean(*flags: str) -> float:
        return json.loads(simulate(capsys, "--json", "--tensor-parallel-size", "2", *flags))["summary"]["e2e_s"]["mean"]

    base = mean()
    assert mean("--iteration-overhead-us", "5000") > base + 20 * 0.005
    assert mean("--device-overhead-us", "5000") == mean("--iteration-overhead-us", "5000")
    assert mean("--row-overhead-us", "1000") > base
    assert mean("--separate-prefills") > base


def test_the_levels_of_a_policy_are_explained(capsys):
    flags = ("--explain-policy", "--first-quantum-s", "0.1", "--num-levels", "3")
    text = simulate(capsys, *flags, "--compare", "skip-join-mlfq,srpt")
    assert [line.split()[:2] for line in text.splitlines() if line.startswith("Q")] == [
        ["Q1", "0.1"],
        ["Q2", "0.2"],
        ["Q3", "0.4"],
    ]
    assert "srpt: no levels" in text
    levels = json.loads(simulate(capsys, *flags, "--json", "--compare", "fcfs"))
    assert levels == {"fcfs": [{"quantum_s": None, "max_prompt_tokens": 2047, "decodes": None}]}


def test_learned_is_explained_by_what_the_workload_taught_it(capsys):
    flags = ("--explain-policy", "--compare", "learned", "--random-range-ratio", "0.9")
    text = simulate(capsys, *flags)
    assert "lengths learned from 30 requests" in text
    assert "from 0 " in text
    (found,) = json.loads(simulate(capsys, *flags, "--json"))["length_classes"]
    lengths = [tokens for _share, tokens in found["quantiles"]]
    assert 0 < lengths[0] < 20 < lengths[-1] < 40


def test_settings_are_suggested_as_flags(capsys):
    text = simulate(capsys, "--suggest", "e2e_s")
    assert "--starvation-limit-s" in text.splitlines()[-1] + text.splitlines()[-2]
    assert len([line for line in text.splitlines() if line.startswith("learned")]) > 5
    assert json.loads(simulate(capsys, "--suggest", "--json"))["objective"] == "normalized_latency_s"


def test_a_timeline_is_written(capsys, tmp_path):
    simulate(capsys, "--timeline", str(tmp_path / "t.json"))
    assert len(json.loads((tmp_path / "t.json").read_text())) > 20


def test_what_was_measured_is_simulated(capsys, tmp_path):
    path = tmp_path / "profile.json"
    flags = ["--num-threads", "1", "--num-gpu-blocks-override", "64", "--num-host-blocks-override", "16"]
    assert main(["profile", str(tiny_checkpoint("llama")), "--output", str(path), *flags, "--max-num-seqs", "4"]) == 0
    profile = json.loads(path.read_text())
    assert profile["num_device_blocks"] == 64
    assert profile["offload_bytes_per_s"] > 1e6
    assert 0.0 < profile["duplex_share"] <= 1.0
    assert main(["simulate", "--profile", str(path), "--request-rate", "5", *LOAD]) == 0
    assert "measured" in capsys.readouterr().out
    assert main(["profile", str(tiny_checkpoint("llama")), "--suggest", *flags, "--max-num-seqs", "4", *LOAD]) == 0
    assert "--quantum-ratio" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["simulate"], "MODEL must be given"),
        ([*RUN, "--row-overhead-us", "-1"], "row_s must be between 0 and 1000 seconds"),
        (["simulate", "gpt-5"], "the model must be one of"),
        ([*RUN, "--device", "tpu"], "device must be one of"),
        ([*RUN, "--compare", "fcfs,lifo"], "--compare must name policies"),
        ([*RUN, "--sweep-rate", "1;2"], "--sweep-rate must be numbers"),
        ([*RUN, "--compare", "fcfs,mlfq", "--suggest"], "one policy and one rate"),
        (["profile", "m", "--trace", "x.csv"], "go with --suggest"),
        ([*RUN, "--compare", "fcfs,mlfq", "--requests-csv", "x.csv"], "--requests-csv is written by a single run"),
        ([*RUN, "--profile", "x.json"], "leave MODEL out"),
        (["simulate", "--profile", "/nonexistent.json"], "cannot be used"),
    ],
)
def test_wrong_flags_are_an_error_of_one_line(flags, words, capsys):
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_objectives_choose_the_policy_and_the_limits_of_goodput(capsys):
    objectives = ("--ttft-slo-s", "100", "--tpot-slo-s", "100")
    text = simulate(capsys, *objectives)
    assert "slo on opt-13b" in text and "(100.0%)" in text
    assert "good share" in simulate(capsys, "--compare", "fcfs,slo", *objectives)
    assert main([*RUN, "--scheduling-policy", "fcfs", *objectives]) == 2
    assert "belong to the policy slo, not to fcfs" in capsys.readouterr().err


def test_goodput_is_that_of_the_limits_given(capsys):
    text = simulate(capsys, "--goodput", "ttft:100000", "tpot:100000")
    assert "goodput" in text
    tight = json.loads(simulate(capsys, "--json", "--goodput", "ttft:0.001"))["summary"]
    loose = json.loads(simulate(capsys, "--json", "--goodput", "pause:1e9"))["summary"]
    assert tight["goodput_per_s"] == 0.0
    assert loose["goodput_per_s"] == pytest.approx(loose["requests_per_s"])
    assert "goodput/s" in simulate(capsys, "--compare", "fcfs,srpt", "--goodput", "ttft:100")
    assert main([*RUN, "--goodput", "itl:5"]) != 0
    assert "--goodput of a simulation takes ttft, tpot, pause" in capsys.readouterr().err
