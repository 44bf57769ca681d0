"""What several of the integration tests start from."""

from collections.abc import Callable, Iterator

import pytest

from fastserve.engine.core import EngineCore
from tests.integration.engine_driver import Driver, engine_config


@pytest.fixture
def make_driver() -> Iterator[Callable[..., Driver]]:
    """Make drivers of real engines; keyword arguments as of `engine_config`. All are closed at the end of the test."""
    cores = []

    def make(**changes: object) -> Driver:
        cores.append(EngineCore.from_config(engine_config(**changes)))
        return Driver(cores[-1])

    yield make
    for core in cores:
        core.close()
