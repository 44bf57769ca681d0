"""Fields of config.json in, a spec out."""

import json
from pathlib import Path

import pytest

from fastserve.models.registry import read_spec
from tests.devices import isa  # noqa: F401 (a fixture)


@pytest.fixture
def read(tmp_path: Path):
    """Write the fields as config.json and read the spec."""

    def write_and_read(fields: dict[str, object], **changes: object):
        (tmp_path / "config.json").write_text(json.dumps(fields | changes))
        return read_spec(tmp_path)

    return write_and_read
