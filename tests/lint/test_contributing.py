"""The lists of "How to add" in CONTRIBUTING.md: an example of each addition occurs in the listed files and in no others."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
ADDITIONS = ("policy", "scheduler setting", "sampling parameter", "model family", "operator", "metric", "API field")
ROWS = {
    what: (example, set(re.findall(r"`([^`]+)`", files)))
    for what, example, files in re.findall(r"^\| (?:an? )?([\w ]+?) \| `(\w+)` \| (.+) \|$", TEXT, re.MULTILINE)
}


def product_files() -> list[Path]:
    """The hand-written sources of the product."""
    written = [path for folder in ("csrc", "python/fastserve") for path in (ROOT / folder).rglob("*")]
    return [path for path in written if path.suffix in (".h", ".cc", ".cu", ".cuh", ".py") and path.parent.name != "_C"]


def files_with(word: str) -> set[str]:
    return {str(path.relative_to(ROOT)) for path in product_files() if re.search(rf"\b{word}\b", path.read_text())}


def test_every_kind_of_addition_has_its_row():
    assert set(ROWS) == set(ADDITIONS)


@pytest.mark.parametrize("what", ADDITIONS)
def test_the_example_stands_in_the_listed_files_and_in_no_others(what):
    example, files = ROWS[what]
    assert files_with(example) == files
