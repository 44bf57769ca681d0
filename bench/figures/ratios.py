"""The table of ratios: a line against each other line, at its best and at its worst point."""

from dataclasses import dataclass, replace

from bench.figures.run import PanelResult
from bench.figures.spec import FigureSpec

BEST_OF_ALL = "the best of them"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatioRow:
    """The compared line over another line in one panel: latencies, so below 1 the compared line is the better one.

    Attributes:
        lowest, highest: of the ratios over the x axis; lowest_at, highest_at: where.
    """

    panel: str
    quantity: str
    other: str
    lowest: float
    lowest_at: float
    highest: float
    highest_at: float


def ratio_table(spec: FigureSpec, results: list[PanelResult]) -> list[RatioRow]:
    """A row per panel, quantity and other line, and one against the best of them; empty where nothing is compared."""
    if spec.compared is None:
        return []
    others = [line.name for line in spec.lines if line.name != spec.compared and not line.oracle]
    rows = []
    for result in results:
        for quantity in spec.quantities:
            values = {name: [point.measures[quantity] for point in points] for name, points in result.points.items()}
            values[BEST_OF_ALL] = [min(column) for column in zip(*(values[name] for name in others), strict=True)]
            x = [point.x for point in result.points[spec.compared]]
            for other in [*others, BEST_OF_ALL]:
                pairs = zip(values[spec.compared], values[other], strict=True)
                by_ratio = sorted((float(f"{a / b:.4g}"), at) for (a, b), at in zip(pairs, x, strict=True))
                (lowest, lowest_at), (highest, highest_at) = by_ratio[0], by_ratio[-1]
                rows.append(
                    RatioRow(
                        panel=result.title,
                        quantity=quantity,
                        other=other,
                        lowest=lowest,
                        lowest_at=lowest_at,
                        highest=highest,
                        highest_at=highest_at,
                    )
                )
    return rows


def worst_of_all(rows: list[RatioRow]) -> list[RatioRow]:
    """Per quantity and other line, the best and the worst point of all panels; `panel` is that of the worst point."""
    worst = []
    for quantity, other in dict.fromkeys((row.quantity, row.other) for row in rows):
        same = [row for row in rows if (row.quantity, row.other) == (quantity, other)]
        low, high = min(same, key=lambda row: row.lowest), max(same, key=lambda row: row.highest)
        panel = f"all; the highest: {high.panel}"
        worst.append(replace(high, panel=panel, lowest=low.lowest, lowest_at=low.lowest_at))
    return worst


def ratios_as_markdown(rows: list[RatioRow], compared: str) -> str:
    """The rows as a Markdown table."""
    lines = [f"| panel | quantity | {compared} over | lowest ratio, at | highest ratio, at |", "|---|---|---|---|---|"]
    for row in rows:
        cells = f"{row.lowest:.2f}, {row.lowest_at:g} | {row.highest:.2f}, {row.highest_at:g}"
        lines.append(f"| {row.panel} | {row.quantity} | {row.other} | {cells} |")
    return "\n".join(lines)
