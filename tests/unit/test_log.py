"""The log of a process: its level, its two forms, and how a child process learns of both."""

import json
import logging
from collections.abc import Iterator

import pytest

from fastserve.log import configure_logging, get_logger, log_settings


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Put the logger back as it was, for the tests that come after."""
    logger = logging.getLogger("fastserve")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_says_what_is_shown(capsys, level, shown):
    configure_logging(level)
    logger = get_logger("fastserve.room")
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)("about %s", name)
    output = capsys.readouterr()
    assert output.out == ""
    assert [line.split()[1:] for line in output.err.splitlines()] == [
        [name.upper(), "fastserve.room:", "about", name] for name in shown
    ]


def test_json_lines_hold_the_message_its_request_and_its_exception(capsys):
    configure_logging("info", json_lines=True)
    logger = get_logger("fastserve.room")
    logger.info("two\nlines", extra={"request_id": "req-1"})
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        logger.exception("failed")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert first.pop("time_s") > 1e9
    assert first == {"level": "INFO", "logger": "fastserve.room", "message": "two\nlines", "request_id": "req-1"}
    assert second["level"] == "ERROR" and "RuntimeError: broken" in second["exception"]


def test_configuring_twice_does_not_log_twice(capsys):
    configure_logging("info")
    configure_logging("info")
    get_logger("fastserve.room").info("once")
    assert capsys.readouterr().err.count("once") == 1


@pytest.mark.parametrize(("level", "json_lines"), [("debug", True), ("error", False)])
def test_a_child_process_logs_alike(level, json_lines):
    configure_logging(level, json_lines=json_lines)
    assert log_settings() == (level, json_lines)
