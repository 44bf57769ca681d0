"""The kernel benchmark runs, compares interleaved samples, and keeps every one of them."""

import json
import sys

from bench.kernels import __main__ as kernel_bench
from bench.kernels.case import all_cases
from bench.lib.timing import Samples, interleave


def test_contenders_take_turns():
    turns = []
    samples = interleave({"a": lambda: turns.append("a"), "b": lambda: turns.append("b")}, rounds=3, sample_s=0.0)
    assert "".join(turns[-12:]) == "aabbaabbaabb"  # one call to settle, one timed
    assert {name: len(sample.seconds) for name, sample in samples.items()} == {"a": 3, "b": 3}


def test_median_and_spread_of_samples():
    samples = Samples((1.0, 2.0, 4.0, 3.0, 5.0))
    assert samples.median_s == 3.0
    assert samples.spread == 2.0 / 3.0


def test_every_module_with_cases_is_found():
    kernels = {case.kernel for case in all_cases(quick=True, only="norm")}
    assert kernels == {"rms_norm", "layer_norm"}


def test_results_are_written_with_raw_samples(tmp_path, monkeypatch, capsys):
    path = tmp_path / "norm.json"
    monkeypatch.setattr(sys, "argv", ["bench.kernels", "--quick", "--only", "norm", "--json", str(path)])
    kernel_bench.main()
    document = json.loads(path.read_text())
    assert document["git_sha"]
    assert document["host"]["cores"] >= 1
    assert document["config"]["quick"] is True
    first = document["results"][0]
    assert len(first["samples_s"]["fastserve"]) == len(first["samples_s"]["torch"]) == 5
    assert "torch" in capsys.readouterr().out
