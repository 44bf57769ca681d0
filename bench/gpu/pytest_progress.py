"""A plugin of pytest, `-p bench.gpu.pytest_progress`: tests are items of the file that PROGRESS names (bench/gpu/progress.py)."""

import os
from pathlib import Path

import pytest

from bench.gpu.progress import Progress, exit_if_device_is_lost

TEXT_LENGTH = 1500


class Recorder:
    """Leaves out tests that have ended before, notes how the others end, and ends a process that has lost its GPU."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._outcome, self._seconds, self._text = "", 0.0, ""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        dropped = [item for item in items if item.nodeid in self._progress.ended]
        items[:] = [item for item in items if item.nodeid not in self._progress.ended]
        config.hook.pytest_deselected(items=dropped)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._outcome, self._seconds, self._text = "passed", 0.0, ""
        self._progress.begin(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds += report.duration
        if report.outcome != "passed" and self._outcome != "failed":
            self._outcome, self._text = report.outcome, report.longreprtext[-TEXT_LENGTH:]

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        facts = {"text": self._text} if self._text else {}
        self._progress.end(nodeid, self._outcome, seconds=round(self._seconds, 3), **facts)
        if self._outcome == "failed":
            exit_if_device_is_lost()

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        if exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            self._progress.done()


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(Progress(Path(os.environ["PROGRESS"]))))
