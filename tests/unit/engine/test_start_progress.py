"""What is shown while an engine starts."""

import pytest

from fastserve.engine import console
from fastserve.engine.console import StartProgress


def load(progress: StartProgress) -> None:
    """The calls of a start on a GPU."""
    for done in (1 << 29, 1 << 30):
        progress("weights", done, 1 << 30)
    for done in range(1, 4):
        progress("graphs", done, 3)
    progress("profile", 0, 1)
    progress("profile", 1, 1)


def test_a_terminal_sees_a_bar_for_each_stage(capsys):
    load(StartProgress(terminal=True))
    shown = capsys.readouterr().err
    for stage in ("weights: 100%", "graphs: 100%", "profile: 100%"):
        assert stage in shown
    assert "1.07G/1.07G" in shown  # bytes


def test_a_log_gets_a_line_for_stages_that_took_long(capsys, caplog, monkeypatch):
    monkeypatch.setattr(console, "LONG_STAGE_S", 0.0)
    with caplog.at_level("INFO", logger="fastserve"):
        load(StartProgress(terminal=False))
    assert capsys.readouterr().err == ""
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" ready after ")[0] for line in lines] == ["weights", "graphs", "profile"]


def test_stages_that_took_no_time_are_not_worth_a_line(caplog):
    with caplog.at_level("INFO", logger="fastserve"):
        load(StartProgress(terminal=False))
    assert not caplog.records


@pytest.mark.parametrize("terminal", [True, False])
def test_a_start_that_fails_in_a_stage_leaves_nothing_open(terminal):
    progress = StartProgress(terminal=terminal)
    progress("weights", 1, 10)
    progress.close()
    progress.close()
    assert progress._bar is None
