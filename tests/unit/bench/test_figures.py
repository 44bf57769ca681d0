"""A small figure from end to end: written, drawn, the same bytes every time."""

import json

import numpy as np
import pytest

from bench.figures.__main__ import main
from bench.figures.paper import PaperCurves
from bench.figures.plot import draw_figure
from bench.figures.ratios import BEST_OF_ALL, ratio_table, worst_of_all
from bench.figures.report import as_json, document
from bench.figures.run import PanelResult, Point, run_figure
from bench.figures.spec import FigureSpec, Line, read_figure
from bench.figures.table import slo_table
from bench.figures.workloads import find_workload, make_workload
from fastserve.errors import InvalidArgumentError

FIGURE = """
title = "small"
x = "{x}"
draw = "{draw}"
quantities = {quantities}
[base]
max_num_seqs = 4
max_model_len = 2048
workload = "alpaca"
requests = 20
seeds = 2
[[panel]]
title = "OPT-13B"
values = {values}
slo_s = 0.03
[[line]]
name = "fcfs"
scheduling_policy = "fcfs"
[[line]]
name = "mlfq"
scheduling_policy = "skip-join-mlfq"
"""
CURVES = {"x": "rate", "draw": "curves", "quantities": ["normalized_latency_s.mean", "e2e_s.mean"], "values": [1, 8]}


def small_figure(tmp_path, **parts):
    path = tmp_path / "small.toml"
    path.write_text(FIGURE.format(**(CURVES | parts)))
    return read_figure(path)


def make(spec, folder):
    folder.mkdir()
    results = run_figure(spec, processes=1)
    (folder / "small.json").write_text(
        as_json(document(spec, results, slo_table(spec, results), ratio_table(spec, results)))
    )
    return [folder / "small.json", *draw_figure(spec, results, PaperCurves({}), folder / "small")]


def test_same_figure_has_the_same_bytes(tmp_path):
    spec = small_figure(tmp_path)
    first, second = make(spec, tmp_path / "1"), make(spec, tmp_path / "2")
    assert [path.name for path in first] == ["small.json", "small.png", "small-e2e-mean.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert all(path.stat().st_size < 100_000 for path in first)


def test_json_holds_every_sample_and_the_table(tmp_path):
    values = json.loads(make(small_figure(tmp_path), tmp_path / "1")[0].read_text())
    points = values["panels"][0]["points"]
    assert list(points) == ["fcfs", "mlfq"]
    assert [point["x"] for point in points["fcfs"]] == [1, 8]
    assert len(points["fcfs"][1]["samples"]["e2e_s.mean"]) == 2
    mean = np.mean(points["fcfs"][1]["samples"]["e2e_s.mean"])
    assert points["fcfs"][1]["measures"]["e2e_s.mean"] == pytest.approx(mean, rel=1e-4)
    assert {row["line"] for row in values["rate_at_slo"]} == {"fcfs", "mlfq"}


def test_load_is_counted_in_the_rate_at_which_fcfs_is_saturated(tmp_path):
    spec = small_figure(tmp_path, x="load", values=[0.5])
    (result,) = run_figure(spec, processes=1)
    expected = run_figure(small_figure(tmp_path, values=[0.5 * result.saturation_rates["fcfs"]]), processes=1)
    assert result.points["fcfs"][0].samples == expected[0].points["fcfs"][0].samples


@pytest.mark.parametrize(
    ("draw", "quantities"), [("bars", ["queue_s", "run_s"]), ("series", ["normalized_latency_s.mean"])]
)
def test_bars_and_series_are_drawn(tmp_path, draw, quantities):
    written = make(small_figure(tmp_path, draw=draw, quantities=quantities, values=[8]), tmp_path / "1")
    assert [path.name for path in written] == ["small.json", "small.png"]


def test_command_writes_json_and_pictures(tmp_path, capsys):
    assert main(["overall", "--quick", "--output", str(tmp_path)]) == 2
    assert "sharegpt_first_turns.csv in the folder of traces" in capsys.readouterr().err


def test_unknown_workload_and_missing_file_are_errors(tmp_path):
    with pytest.raises(InvalidArgumentError, match="workload must be one of sharegpt, "):
        find_workload("x")
    with pytest.raises(InvalidArgumentError, match=r"azure_code_2023\.csv in the folder of traces"):
        make_workload("azure-code", tmp_path, rate=1, count=1, seed=0)


def write_azure(folder, count=50):
    rows = [f"2023-11-16 18:00:{i:02d}.0,{100 + i},{1 + i}" for i in range(count)]
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "\n".join(rows) + "\n"
    (folder / "azure_code_2023.csv").write_text(text)


def test_arrivals_of_a_trace_keep_their_pattern_at_the_rate_asked_for(tmp_path):
    write_azure(tmp_path)
    workload = make_workload("azure-code", tmp_path, rate=10.0, count=40, seed=1)
    gaps_s = np.diff(workload.arrival_s)
    assert len(workload) == 40
    assert gaps_s == pytest.approx(np.full(39, gaps_s[0]))
    assert 40 / workload.arrival_s[-1] == pytest.approx(10.0)


def test_rows_of_the_second_half_of_a_file_are_the_last_ones(tmp_path):
    write_azure(tmp_path)
    workload = make_workload("azure-code-second-half", tmp_path, rate=10.0, count=25, seed=1)
    assert workload.prompt_tokens.tolist() == list(range(125, 150))


def test_hidden_lengths_and_the_first_seed_are_those_of_the_runs(tmp_path):
    def samples(**settings):
        path = tmp_path / "small.toml"
        extra = "".join(f"{name} = {value}\n" for name, value in settings.items())
        path.write_text(FIGURE.format(**CURVES).replace("seeds = 2\n", extra))
        (result,) = run_figure(read_figure(path), processes=1)
        return result.points["fcfs"][1].samples["e2e_s.mean"]

    both = samples(seeds=2)
    assert samples(seeds=1, first_seed=1) == both[1:]
    assert samples(seeds=1, hide_lengths="true")[0] > both[0]


def test_scaled_outputs_are_shorter_and_prompts_are_not(tmp_path):
    (tmp_path / "sharegpt_first_turns.csv").write_text("input_tokens,output_tokens\n100,1000\n")
    plain, scaled = (
        make_workload(name, tmp_path, rate=1.0, count=1, seed=0) for name in ("sharegpt", "sharegpt-paper")
    )
    assert (plain.output_tokens[0], scaled.output_tokens[0]) == (1000, 600)
    assert scaled.prompt_tokens[0] == 100


def test_ratios_tell_the_best_and_the_worst_point_of_the_compared_line():
    def points(*latencies_s):
        return [
            Point(x=x, samples={}, measures={"e2e_s.mean": value}, series={})
            for x, value in enumerate(latencies_s, start=1)
        ]

    spec = FigureSpec(
        name="f",
        title="t",
        panels=(),
        lines=(Line(name="new"), Line(name="a"), Line(name="b"), Line(name="oracle", oracle=True)),
        quantities=("e2e_s.mean",),
        compared="new",
    )
    result = PanelResult(
        title="p", points={"new": points(2, 3), "a": points(4, 2), "b": points(1, 6), "oracle": points(0.1, 0.1)}
    )
    rows = {row.other: (row.lowest, row.lowest_at, row.highest, row.highest_at) for row in ratio_table(spec, [result])}
    assert rows == {"a": (0.5, 1, 1.5, 2), "b": (0.5, 2, 2.0, 1), BEST_OF_ALL: (1.5, 2, 2.0, 1)}
    better = PanelResult(
        title="q", points={"new": points(1, 1), "a": points(4, 2), "b": points(2, 2), "oracle": points(1, 1)}
    )
    (row,) = (row for row in worst_of_all(ratio_table(spec, [result, better])) if row.other == "a")
    assert (row.panel, row.lowest, row.lowest_at) == ("all; the highest: p", 0.25, 1)
    assert (row.highest, row.highest_at) == (1.5, 2)
