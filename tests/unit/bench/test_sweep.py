"""The search for a rate, against known curves; two servers take turns."""

import math

import pytest

from fastserve.bench import sweep as sweep_module
from fastserve.bench.client import Target
from fastserve.bench.load import LoadOptions, LoadRun
from fastserve.bench.rate_search import RateGrid, RateSearch
from fastserve.bench.sweep import Contender, Slo, SweepPlan, report, sweep, table
from fastserve.errors import InvalidArgumentError


def searched(capacity: float, grid: RateGrid) -> tuple[RateSearch, list[float]]:
    """Search a server whose latency is (rate / capacity)^3 of the limit."""
    search, tried = RateSearch(grid), []
    while (rate := search.next_rate()) is not None:
        tried.append(rate)
        search.record((rate / capacity) ** 3)
    return search, tried


@pytest.mark.parametrize("capacity", [0.3, 1.0, 7.7, 50.0])
def test_rate_is_found_within_a_step_of_the_grid(capacity):
    search, tried = searched(capacity, RateGrid(min_rate=0.25, max_rate=64.0, resolution=1.1))
    assert search.is_bounded and search.rate == pytest.approx(capacity, rel=1e-6)  # a power law interpolates exactly
    assert len(tried) <= 13 and len(set(tried)) == len(tried)


def test_ends_of_the_grid():
    low, tried = searched(0.1, RateGrid(min_rate=1.0, max_rate=8.0))
    assert low.rate == 0.0 and low.is_bounded and tried == [1.0]
    high, tried = searched(100.0, RateGrid(min_rate=1.0, max_rate=8.0, resolution=2.0))
    assert high.rate == 8.0 and not high.is_bounded and tried == [1.0, 2.0, 4.0, 8.0]
    single, tried = searched(5.0, RateGrid(min_rate=1.0, max_rate=1.0))
    assert single.rate == 1.0 and not single.is_bounded and tried == [1.0]


def test_failed_runs_give_the_highest_rate_that_worked():
    search = RateSearch(RateGrid(min_rate=1.0, max_rate=8.0, resolution=2.0))
    while (rate := search.next_rate()) is not None:
        search.record(0.5 if rate < 4 else math.inf)
    assert search.rate == 2.0


@pytest.mark.parametrize("fields", [(0.0, 1.0, 1.1), (2.0, 1.0, 1.1), (1.0, 2.0, 1.0), (1.0, math.inf, 1.1)])
def test_grids_that_make_no_sense_are_refused(fields):
    with pytest.raises(InvalidArgumentError, match=r"rates must be|resolution must be"):
        RateGrid(min_rate=fields[0], max_rate=fields[1], resolution=fields[2])


def test_slo_is_read_and_judged():
    slo = Slo.parse("p95_ttft_ms:200")
    assert slo.percentiles == (95.0,) and Slo.parse("mean_normalized_ms:1").percentiles == ()
    assert slo.excess({"p95_ttft_ms": 100.0, "failed": 0}) == 0.5
    assert slo.excess({"p95_ttft_ms": 100.0, "failed": 1}) == math.inf
    assert slo.excess({"p95_ttft_ms": None, "failed": 0}) == math.inf
    for text in ("ttft:1", "p95_ttft_ms", "p95_ttft_ms:0", "p95_speed_ms:3", "p101_ttft_ms:3", "best_ttft_ms:3"):
        with pytest.raises(InvalidArgumentError, match=r"an SLO must be|a percentile must be"):
            Slo.parse(text)


def test_two_servers_take_turns_and_are_compared(monkeypatch, capsys):
    asked = []

    def fake_load(target, workload, options):
        asked.append((target.base_url, workload))
        return LoadRun(results=(), duration_s=1.0)

    def fake_summary(run, *, percentiles):
        url, (rate, _) = asked[-1]
        value = 100.0 * rate / (8.0 if url == "http://a" else 2.0)
        return {"mean_normalized_ms": value, "failed": 0, "output_throughput": 1.0, "kept_offered_rate": True}

    monkeypatch.setattr(sweep_module, "run_load", fake_load)
    monkeypatch.setattr(sweep_module, "summarize", fake_summary)
    grid = RateGrid(min_rate=1.0, max_rate=16.0, resolution=1.2)
    plan = SweepPlan(slo=Slo.parse("mean_normalized_ms:100"), grid=grid, min_requests=10, seconds_per_rate=5.0)
    servers = [Contender(n, Target(base_url=f"http://{n}", model="m"), RateSearch(grid)) for n in ("a", "b")]
    sweep(servers, plan, LoadOptions(), lambda rate, count: (rate, count))
    assert [url for url, _ in asked[:4]] == ["http://a", "http://b"] * 2
    assert servers[0].search.rate == pytest.approx(8.0) and servers[1].search.rate == pytest.approx(2.0)
    assert all(count == max(10, math.ceil(5 * rate)) for _, (rate, count) in asked)
    assert "a takes 4.00 x as many" in table(servers, plan)
    servers[0].search = RateSearch(grid)  # never missed the limit: there is no ratio to tell
    assert "x as many" not in table(servers, plan) and "or more" in table(servers, plan)
    document = report(servers, plan)["servers"]
    assert document["b"]["rate"] == pytest.approx(2.0) and len(document["b"]["runs"]) == len(servers[1].runs)
    assert "missed" in capsys.readouterr().out
