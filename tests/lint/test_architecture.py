"""The sentences of ARCHITECTURE.md that name files, held against the sources."""

import ast
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
PACKAGE = ROOT / "python" / "fastserve"
CORE = ROOT / "csrc"
MOST_BOXES = 9


def files_named_after(opening: str) -> set[str]:
    """The files in backticks between the words `opening` and the end of their sentence."""
    assert TEXT.count(opening) == 1, opening
    sentence = re.split(r"[.;]\s", TEXT.split(opening)[1])[0]
    return set(re.findall(r"`([\w/]+\.\w+)`", sentence))


def python_files_where(matches: Callable[[ast.AST], bool]) -> set[str]:
    """Files of the package, by their path in it, with a matching node."""
    return {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if any(matches(node) for node in ast.walk(ast.parse(path.read_text())))
    }


def called_name(node: ast.AST) -> str:
    """The last part of the name of what a call calls; empty for every other node."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def test_the_files_with_the_cuda_switch_are_those_that_are_named():
    switched = [
        str(path.relative_to(ROOT))
        for path in CORE.rglob("*")
        if path.suffix in (".h", ".cc", ".cu", ".cuh") and "FASTSERVE_WITH_" in path.read_text()
    ]
    assert set(switched) == files_named_after("These files do: ")


def test_processes_are_started_where_it_is_written():
    starts = re.compile(
        r"subprocess\.\w+|os\.(fork|exec|spawn|posix_spawn|system|popen)\w*|asyncio\.create_subprocess_\w+|multiprocessing\..+"
    )
    found = python_files_where(
        lambda node: isinstance(node, ast.Call) and starts.fullmatch(ast.unparse(node.func)) is not None
    )
    assert found == files_named_after("These files start processes: ")


def test_threads_are_started_where_it_is_written():
    starts = {"Thread", "ThreadPoolExecutor", "to_thread", "run_in_executor", "start_new_thread"}
    assert python_files_where(lambda node: called_name(node) in starts) == files_named_after("These start threads: ")
    holders = {
        str(path.relative_to(CORE))
        for path in CORE.rglob("*")
        if path.suffix in (".h", ".cc") and re.search(r"\w<std::j?thread\b", path.read_text())
    }
    assert holders == files_named_after("of the core ")


def test_the_scheduler_is_changed_where_it_is_written():
    changes = {"schedule", "commit", "complete_transfers", "fail_step", "take_events", "abort", "fail", "stop", "add"}

    def changes_a_scheduler(node: ast.AST) -> bool:
        return called_name(node) in changes and ast.unparse(node.func).endswith(f"scheduler.{called_name(node)}")

    assert python_files_where(changes_a_scheduler) == files_named_after("The scheduler is changed in\n")


def test_the_table_of_rooms_has_every_package():
    rooms = {
        word for row in re.findall(r"^\| (`.*?`) \|", TEXT, re.MULTILINE) for word in re.split(r"[` .]+", row) if word
    }
    assert {path.name for path in CORE.iterdir() if path.is_dir()} <= {room.removeprefix("csrc/") for room in rooms}
    packages = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] not in "_."}
    assert packages <= rooms
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert {name for layer in layers for name in re.split(r" : ", layer)} <= rooms


@pytest.mark.parametrize("document", ["ARCHITECTURE.md", "CONTRIBUTING.md", "README.md"])
def test_every_file_and_folder_that_is_named_exists(document):
    text = (ROOT / document).read_text()
    named = re.findall(r"`((?:csrc|tests|bench|docs|third_party|python)/[\w./-]+)`", text)
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    assert [name for name in named + links if not (ROOT / name).exists()] == []


def test_the_picture_of_the_data_flow_has_few_boxes():
    (picture,) = re.findall(r"```mermaid\n(.*?)```", TEXT, re.DOTALL)
    lines = [re.sub(r'\|"?[^|]*"?\|', "", line) for line in picture.splitlines()[1:]]
    boxes = {re.match(r"\w+", end.strip())[0] for line in lines for end in line.split("-->") if end.strip()}
    assert 5 <= len(boxes) <= MOST_BOXES, boxes
