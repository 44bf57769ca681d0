"""The table of a figure: what each system bears, and the paper's."""

from dataclasses import dataclass

from bench.figures.run import PanelResult
from bench.figures.slo import rate_at_slo
from bench.figures.spec import FigureSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class SloRow:
    """The rate at which a line of a panel passes the limit.

    Attributes:
        ours: requests per second; None = the limit is not passed up to `highest_rate`.
        over_baseline: `ours` over that of the figure's baseline.
        paper, paper_over_baseline: the same in the paper.
    """

    panel: str
    quantity: str
    line: str
    slo_s: float
    highest_rate: float
    ours: float | None
    over_baseline: float | None
    paper: float | None
    paper_over_baseline: float | None


def slo_table(spec: FigureSpec, results: list[PanelResult]) -> list[SloRow]:
    """A row per panel with a limit, quantity and line; empty for figures without limits."""
    panels = {panel.title: panel for panel in spec.panels}
    rows = []
    for result in results:
        panel = panels[result.title]
        if spec.draw != "curves" or panel.slo_s is None:
            continue
        for quantity in spec.quantities:
            paper = dict(panel.paper.rate_at_slo.get(_statistic(quantity), {})) if panel.paper else {}
            ours = {
                name: rate_at_slo([p.x for p in points], [p.measures[quantity] for p in points], panel.slo_s)
                for name, points in result.points.items()
            }
            named = {line.name: line.paper for line in spec.lines}
            for name, rate in ours.items():
                theirs = paper.get(named[name] or "")
                base = spec.baseline
                rows.append(
                    SloRow(
                        panel=result.title,
                        quantity=quantity,
                        line=name,
                        slo_s=panel.slo_s,
                        highest_rate=max(panel.values),
                        ours=_rounded(rate),
                        over_baseline=_ratio(rate, ours.get(base or "")),
                        paper=theirs,
                        paper_over_baseline=_ratio(theirs, paper.get(named.get(base or "") or "")),
                    )
                )
    return rows


def as_markdown(rows: list[SloRow]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| panel | quantity | system | ours, requests/s | paper | ours / paper | ours over baseline | paper over baseline |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = f"above {row.highest_rate:g}" if row.ours is None else f"{row.ours:.2f}"
        cells = (
            _text(row.paper),
            _text(_ratio(row.ours, row.paper)),
            _text(row.over_baseline),
            _text(row.paper_over_baseline),
        )
        lines.append(f"| {row.panel} | {_statistic(row.quantity)} | {row.line} | {ours} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _statistic(quantity: str) -> str:
    return quantity.rpartition(".")[2]


def _ratio(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else _rounded(value / base)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
