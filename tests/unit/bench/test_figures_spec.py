"""Figures are read from TOML; the error for a mistake names its place and the remedy."""

import pytest

from bench.figures.spec import FOLDER, figure_names, read_figure
from fastserve.errors import InvalidArgumentError

GOOD = """
title = "t"
[base]
max_num_seqs = 4
[[panel]]
title = "p"
values = [1, 2]
requests = [10, 20]
workload = "alpaca"
[[line]]
name = "a"
scheduling_policy = "fcfs"
max_num_seqs = 8
"""


def read(tmp_path, text):
    path = tmp_path / "figure.toml"
    path.write_text(text)
    return read_figure(path)


def test_line_overrides_panel_overrides_base_and_x_comes_last(tmp_path):
    spec = read(tmp_path, GOOD)
    settings = spec.settings(spec.panels[0], spec.lines[0], 1)
    assert (settings.rate, settings.requests, settings.workload) == (2, 20, "alpaca")
    assert dict(settings.scheduler) == {"max_num_seqs": 8, "scheduling_policy": "fcfs"}


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        ("iteration_overhead_us = 1e6", 1.0),
        ("device_overhead_us = 1e6\ntensor = 2", 1.0),
        ("row_overhead_us = 1e6", 3.0),
        ("separate_prefills = true", 0.02),
    ],
)
def test_costs_of_an_engine_are_those_of_its_runs(tmp_path, field, seconds):
    def iteration_s(text):
        spec = read(tmp_path, text)
        deployment = spec.settings(spec.panels[0], spec.lines[0], 0).deployment()
        return deployment.cost.iteration_s(10, 55, 3, 100)

    plain_s = iteration_s(GOOD.replace("[base]", "[base]\ntensor = 2") if "tensor" in field else GOOD)
    assert iteration_s(GOOD.replace("[base]", f"[base]\n{field}")) == pytest.approx(plain_s + seconds, rel=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title = \"t\"", ""), "the figure: title is missing"),
        (("[base]", "[bose]"), "the figure: bose is not known; there are title, draw"),
        (("max_num_seqs = 4", "max_num_slots = 4"), "panel 'p', line 'a': max_num_slots is no setting of a run; there are model"),
        (("values = [1, 2]", "values = []"), "panel 1: values must not be empty"),
        (("requests = [10, 20]", "requests = [10]"), r"requests must have a number per value \(2\), got 1"),
        (("max_num_seqs = 8", "max_num_seqs = 0"), "panel 'p', line 'a': max_num_seqs must be between 1 and"),
        (("values = [1, 2]", "values = [0, 2]"), "panel 'p', line 'a': rate must be above 0, got 0"),
        (("name = \"a\"", ""), "line 1: name is missing"),
        (("[base]", "draw = \"pie\"\n[base]"), "draw must be one of curves, bars, series, got 'pie'"),
        (("[base]", "baseline = \"b\"\n[base]"), "baseline must be one of the lines a, got 'b'"),
        (("[[line]]", "[line]"), r"a figure needs at least one \[\[line\]\]"),
        (("title = \"t\"", "title = "), "a figure must be a TOML file"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_their_place(tmp_path, change, message):
    with pytest.raises(InvalidArgumentError, match=message):
        read(tmp_path, GOOD.replace(*change, 1))


@pytest.mark.parametrize("name", figure_names())
def test_every_figure_of_the_folder_can_be_read(name):
    spec = read_figure(FOLDER / f"{name}.toml")
    assert spec.panels and spec.lines
