"""The engine process logs in the form and at the level of the process that started it."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastserve.config import EngineConfig, ModelConfig
from fastserve.engine.async_engine import AsyncEngine
from fastserve.log import configure_logging
from tests.unit.tokenizer import tiny

FACTORY = "tests.unit.engine.fake_core:make_talking"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Put the logger of this process back as it was."""
    logger = logging.getLogger("fastserve")
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.mark.parametrize(
    ("level", "json_lines", "shown"),
    [("info", False, ["INFO", "WARNING"]), ("warning", False, ["WARNING"]), ("info", True, ["INFO", "WARNING"])],
)
async def test_the_engine_process_logs_as_its_parent_does(tmp_path: Path, capfd, level, json_lines, shown):
    configure_logging(level, json_lines=json_lines)
    config = EngineConfig(model=ModelConfig(model=str(tiny.save(tmp_path))))
    engine = await AsyncEngine.start(config, core_factory=FACTORY)
    await engine.close()
    lines = [line for line in capfd.readouterr().err.splitlines() if "the fake says" in line]
    assert [json.loads(line)["level"] if json_lines else line.split()[1] for line in lines] == shown
