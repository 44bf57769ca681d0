"""What a figure consists of, read from its TOML file.

A run is described by settings (see `RunSettings`). `[base]` has those of all runs, each `[[panel]]` those of one plot, each
`[[line]]` those of one system; a line overrides its panel, which overrides the base. The values of the x axis come last.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures.settings import RUN_NAMES, SCHEDULER_NAMES, RunSettings, settings_from
from fastserve.errors import InvalidArgumentError

DRAWINGS = ("curves", "bars", "series")
FOLDER = Path(__file__).with_name("specs")


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperReference:
    """The curves of the paper that belong to a panel.

    Attributes:
        dataset, setting: their names in the file of curves.
        rate_at_slo: requests per second by quantity and system, as interpolated from those curves.
    """

    dataset: str
    setting: str
    rate_at_slo: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot: a title, an x axis, and the settings that its runs share.

    Attributes:
        x: name of the setting on the x axis, where it is not that of the figure.
        values: of the x axis.
        relative_to: value at which each line counts as 1; None = lines show what they are.
        requests: per value; empty = the same for all, as `settings` says.
        slo_s: limit of the quantity, or None.
        y_max: top of the y axis, or None for as much as there is.
    """

    title: str
    values: tuple[float, ...]
    x: str | None = None
    relative_to: float | None = None
    requests: tuple[int, ...] = ()
    slo_s: float | None = None
    y_max: float | None = None
    paper: PaperReference | None = None
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One system.

    Attributes:
        name: in the legend.
        paper: the paper's name for it.
        oracle: it knows what no system can know, so no comparison counts it.
    """

    name: str
    paper: str | None = None
    oracle: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpec:
    """A figure.

    Attributes:
        draw: curves = a quantity over x; bars = parts, grouped by line; series = a quantity over the requests that finished.
        x: name of the setting on the x axis.
        quantities: names of measures, one picture each; for bars, the parts.
        stacked: bars stand on each other.
        columns: of panels.
        log_x, log_y: axes.
        baseline: line that the table of rates at the limit compares with.
        compared: line that the table of ratios compares with each other line.
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    lines: tuple[Line, ...]
    draw: str = "curves"
    x: str = "rate"
    quantities: tuple[str, ...] = ("normalized_latency_s.mean",)
    stacked: bool = False
    columns: int = 3
    log_x: bool = False
    log_y: bool = False
    baseline: str | None = None
    compared: str | None = None
    base: Mapping[str, object] = field(default_factory=dict)

    def settings(self, panel: Panel, line: Line, index: int) -> RunSettings:
        """Of the run of a line at value `index` of a panel."""
        values = dict(self.base) | dict(panel.settings)
        if panel.requests:
            values["requests"] = panel.requests[index]
        return settings_from(values | dict(line.settings) | {self.x_of(panel): panel.values[index]})

    def saturation_settings(self, panel: Panel, line: Line) -> RunSettings:
        """Of the run that says what a load of 1 is: fcfs, with the line's workload, deployment and size of batches."""
        own = {name: value for name, value in line.settings.items() if name in (*RUN_NAMES, *_BATCH_NAMES)}
        values = dict(self.base) | dict(panel.settings) | own | {"scheduling_policy": "fcfs", "seeds": 1}
        values.pop("load", None)
        return settings_from(values)

    def x_of(self, panel: Panel) -> str:
        """Name of the setting on the x axis of a panel."""
        return panel.x or self.x


def figure_names() -> list[str]:
    """Every figure that has a TOML file here."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_figure(path: str | Path) -> FigureSpec:
    """Read a figure and check that each of its runs makes sense.

    Raises:
        InvalidArgumentError: names file, table, key and rule.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgumentError(f"{path}: a figure must be a TOML file: {error}") from error
    try:
        spec = _figure(path.stem, document)
        _check_runs(spec)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{path}: {error}") from error
    return spec


def _figure(name: str, document: dict[str, object]) -> FigureSpec:
    document = dict(document)
    panels = tuple(_panel(i, table) for i, table in enumerate(_tables(document, "panel")))
    lines = tuple(_line(i, table) for i, table in enumerate(_tables(document, "line")))
    base = _table("base", document.pop("base", {}))
    _no_other_keys("the figure", document, _OWN_KEYS)
    _need("the figure", document, "title")
    if "quantities" in document:
        document["quantities"] = tuple(document["quantities"])
    spec = FigureSpec(name=name, panels=panels, lines=lines, base=base, **document)
    if spec.draw not in DRAWINGS:
        raise InvalidArgumentError(f"draw must be one of {', '.join(DRAWINGS)}, got {spec.draw!r}")
    names = [line.name for line in lines]
    if len(set(names)) != len(names):
        raise InvalidArgumentError(f"lines must have different names, got {', '.join(names)}")
    for role in ("baseline", "compared"):
        line = getattr(spec, role)
        if line is not None and line not in names:
            raise InvalidArgumentError(f"{role} must be one of the lines {', '.join(names)}, got {line!r}")
    return spec


def _check_runs(spec: FigureSpec) -> None:
    for panel in spec.panels:
        for line in spec.lines:
            for index in range(len(panel.values)):
                try:
                    spec.settings(panel, line, index)
                except (InvalidArgumentError, TypeError) as error:
                    raise InvalidArgumentError(f"panel {panel.title!r}, line {line.name!r}: {error}") from error


def _panel(i: int, table: dict[str, object]) -> Panel:
    where = f"panel {i + 1}"
    own, settings = _split(where, table, _PANEL_KEYS)
    _need(where, own, "title", "values")
    own["values"] = tuple(own["values"])
    own["requests"] = tuple(own.get("requests", ()))
    if not own["values"]:
        raise InvalidArgumentError(f"{where}: values must not be empty")
    if own.get("relative_to") is not None and own["relative_to"] not in own["values"]:
        raise InvalidArgumentError(f"{where}: relative_to must be one of the values, got {own['relative_to']}")
    if own["requests"] and len(own["requests"]) != len(own["values"]):
        raise InvalidArgumentError(
            f"{where}: requests must have a number per value ({len(own['values'])}), got {len(own['requests'])};"
            " num_requests gives one for all"
        )
    if "num_requests" in own:
        settings["requests"] = own.pop("num_requests")
    if "paper" in own:
        paper = _table(where, own["paper"])
        _no_other_keys(f"{where}.paper", paper, _PAPER_KEYS)
        _need(f"{where}.paper", paper, *_PAPER_KEYS)
        own["paper"] = PaperReference(**paper)
    return Panel(settings=settings, **own)


def _line(i: int, table: dict[str, object]) -> Line:
    own, settings = _split(f"line {i + 1}", table, _LINE_KEYS)
    _need(f"line {i + 1}", own, "name")
    return Line(settings=settings, **own)


_OWN_KEYS = ("title", "draw", "x", "quantities", "stacked", "columns", "log_x", "log_y", "baseline", "compared")
_PANEL_KEYS = ("title", "x", "values", "relative_to", "requests", "num_requests", "slo_s", "y_max", "paper")
_BATCH_NAMES = ("max_num_seqs", "max_num_batched_tokens")
_LINE_KEYS = ("name", "paper", "oracle")
_PAPER_KEYS = ("dataset", "setting", "rate_at_slo")


def _tables(document: dict[str, object], name: str) -> list[dict[str, object]]:
    tables = document.pop(name, [])
    if not isinstance(tables, list) or not tables:
        raise InvalidArgumentError(f"a figure needs at least one [[{name}]]")
    return tables


def _table(where: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidArgumentError(f"{where} must be a table, got {value!r:.60}")
    return value


def _split(where: str, table: dict[str, object], own: tuple[str, ...]) -> tuple[dict[str, object], dict[str, object]]:
    """The keys of the table itself, and the settings of runs."""
    _no_other_keys(where, table, (*own, *RUN_NAMES, *SCHEDULER_NAMES))
    mine = {key: value for key, value in table.items() if key in own}
    return mine, {key: value for key, value in table.items() if key not in own}


def _no_other_keys(where: str, table: Mapping[str, object], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise InvalidArgumentError(f"{where}: {key} is not known; there are {', '.join(known)}")


def _need(where: str, table: Mapping[str, object], *names: str) -> None:
    for name in names:
        if name not in table:
            raise InvalidArgumentError(f"{where}: {name} is missing")
