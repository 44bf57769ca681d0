"""The rate at a limit, the paper's curves, and the table of both."""

import itertools
import json
from pathlib import Path

import pytest

from bench.figures.paper import read_paper
from bench.figures.run import PanelResult, Point
from bench.figures.slo import rate_at_slo
from bench.figures.spec import FigureSpec, Line, Panel, PaperReference
from bench.figures.table import as_markdown, slo_table
from fastserve.errors import InvalidArgumentError

RESULTS = Path(__file__).parents[3] / "bench" / "results" / "figures"

MEAN = "normalized_latency_s.mean"


def test_rate_at_slo_lies_on_the_line_between_two_points():
    assert rate_at_slo([2.0, 2.25, 2.5], [0.091, 0.130, 0.403], 0.3) == pytest.approx(2.25 + 0.25 * 170 / 273)


def test_first_crossing_counts():
    assert rate_at_slo([1, 2, 3, 4], [0.1, 0.5, 0.1, 0.5], 0.3) == pytest.approx(1.5)


def test_limit_that_is_not_passed_has_no_rate_and_one_passed_from_the_start_has_the_first():
    assert rate_at_slo([1, 2], [0.1, 0.3], 0.3) is None
    assert rate_at_slo([1, 2], [0.4, 0.5], 0.3) == 1


def test_paper_curve_ends_where_it_leaves_the_plot(tmp_path):
    path = tmp_path / "curves.csv"
    path.write_text(
        "statistic,dataset,setting,system,arrival_rate_per_s,normalized_latency_s_per_token\n"
        "mean,D,S,A,1,0.1\nmean,D,S,A,2,0.5\nmean,D,S,A,3,0.2\n"
    )
    curves = read_paper(path)
    assert curves.find("mean", "D", "S", "A") == [(1.0, 0.1), (2.0, 0.5)]
    assert curves.find("p95", "D", "S", "A") == []


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "", None])
def test_file_without_the_papers_columns_is_refused(tmp_path, text):
    path = tmp_path / "curves.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InvalidArgumentError, match="columns statistic, dataset"):
        read_paper(path)


def point(x, latency_s):
    return Point(x=x, samples={MEAN: [latency_s]}, measures={MEAN: latency_s}, series={})


def test_table_sets_ours_beside_the_papers():
    paper = PaperReference(dataset="D", setting="S", rate_at_slo={"mean": {"A": 1.0, "B": 3.0}})
    spec = FigureSpec(
        name="f",
        title="t",
        panels=(Panel(title="p", values=(1, 2), slo_s=0.3, paper=paper),),
        lines=(Line(name="a", paper="A"), Line(name="b", paper="B")),
        baseline="a",
    )
    points = {"a": [point(1, 0.2), point(2, 0.4)], "b": [point(1, 0.1), point(2, 0.2)]}
    rows = slo_table(spec, [PanelResult(title="p", points=points)])
    assert [(r.line, r.ours, r.over_baseline, r.paper, r.paper_over_baseline) for r in rows] == [
        ("a", 1.5, 1.0, 1.0, 1.0),
        ("b", None, None, 3.0, 3.0),
    ]
    assert as_markdown(rows).splitlines()[-1] == "| p | mean | b | above 2 | 3.00 |  |  | 3.00 |"


@pytest.mark.parametrize("name", ["chunked_prefill", "gqa", "large_batch", "lengths", "overall"])
def test_systems_stand_in_the_papers_order_in_the_published_results(name):
    rows = json.loads((RESULTS / f"{name}.json").read_text())["rate_at_slo"]
    compared = 0
    for panel, quantity in {(row["panel"], row["quantity"]) for row in rows}:
        # A system whose rate is not known bears more than was tried.
        borne = {
            row["line"]: (row["paper"], row["ours"] or float("inf"))
            for row in rows
            if (row["panel"], row["quantity"]) == (panel, quantity) and row["paper"] is not None
        }
        ours = [rate for _, rate in sorted(borne.values())]
        in_order = all(low < high or low == high == float("inf") for low, high in itertools.pairwise(ours))
        assert in_order, (panel, quantity, borne)
        compared += len(ours) > 1
    assert compared >= 2
