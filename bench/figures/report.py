"""A figure as JSON: what ran, every point, and the table. Without date, machine or commit: the same runs give the same bytes."""

import json
import math
from dataclasses import asdict

from bench.figures.ratios import RatioRow
from bench.figures.run import PanelResult, Point
from bench.figures.spec import FigureSpec
from bench.figures.table import SloRow


def document(
    spec: FigureSpec, results: list[PanelResult], rows: list[SloRow], ratios: list[RatioRow]
) -> dict[str, object]:
    """Plain values; None where there is no number."""
    panels = {panel.title: panel for panel in spec.panels}
    return {
        "figure": spec.name,
        "title": spec.title,
        "x": spec.x,
        "quantities": list(spec.quantities),
        "base": dict(spec.base),
        "lines": {line.name: dict(line.settings) for line in spec.lines},
        "panels": [
            {
                "title": result.title,
                "settings": dict(panels[result.title].settings),
                "saturation_rates": _plain(result.saturation_rates),
                "points": {name: [_point(p) for p in points] for name, points in result.points.items()},
            }
            for result in results
        ],
        "rate_at_slo": [asdict(row) for row in rows],
        "ratios": [asdict(row) for row in ratios],
    }


def as_json(value: object, *, depth: int = 5, indent: str = "") -> str:
    """JSON that is broken into lines down to a depth: a point stays on one line."""
    if depth == 0 or not isinstance(value, dict | list) or not value:
        return json.dumps(value, allow_nan=False)
    inner = indent + " "
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {as_json(item, depth=depth - 1, indent=inner)}" for key, item in value.items()]
        left, right = "{}"
    else:
        items = [as_json(item, depth=depth - 1, indent=inner) for item in value]
        left, right = "[]"
    return f"{left}\n" + ",\n".join(inner + item for item in items) + f"\n{indent}{right}"


def _point(point: Point) -> dict[str, object]:
    """Measures that are 0 are left out."""
    values = asdict(point)
    values["measures"] = {name: value for name, value in point.measures.items() if value != 0}
    return _plain(values)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if item != {}}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
