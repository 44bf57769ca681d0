"""The paper's curves, from a file of numbers."""

import csv
from dataclasses import dataclass
from pathlib import Path

from fastserve.errors import InvalidArgumentError

_COLUMNS = ("statistic", "dataset", "setting", "system", "arrival_rate_per_s", "normalized_latency_s_per_token")


@dataclass(frozen=True, slots=True)
class PaperCurves:
    """Points (rate, latency) by statistic, dataset, setting and system."""

    curves: dict[tuple[str, str, str, str], list[tuple[float, float]]]

    def find(self, statistic: str, dataset: str, setting: str, system: str) -> list[tuple[float, float]]:
        """A curve, empty when there is none."""
        return self.curves.get((statistic, dataset, setting, system), [])


def read_paper(path: str | Path | None) -> PaperCurves:
    """Read the curves; none without a file.

    A curve ends where it leaves its plot, at its highest latency: what comes behind that is dropped.

    Raises:
        InvalidArgumentError: the file cannot be read, lacks a column, or has a row without numbers.
    """
    if path is None:
        return PaperCurves({})
    curves: dict[tuple[str, str, str, str], list[tuple[float, float]]] = {}
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            if not set(_COLUMNS) <= set(rows.fieldnames or ()):
                raise ValueError(f"got {rows.fieldnames}")
            for row in rows:
                names = tuple(row[column] for column in _COLUMNS[:4])
                curves.setdefault(names, []).append((float(row[_COLUMNS[4]]), float(row[_COLUMNS[5]])))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidArgumentError(
            f"{path}: the paper's curves must be a CSV file with the columns {', '.join(_COLUMNS)}: {error!r}"
        ) from error
    return PaperCurves({names: _until_highest(points) for names, points in curves.items()})


def _until_highest(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    highest = max(range(len(points)), key=lambda i: points[i][1])
    return points[: highest + 1]
