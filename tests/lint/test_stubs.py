"""The checked-in stubs of `fastserve._C` say what the module really is; `make stubs` writes them."""

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import fastserve
from fastserve import _C
from fastserve._C.kv import KvManager
from fastserve._C.sched import LatencyModel, RequestOptions, Scheduler, SchedulerConfig, StepEvents, StepPlan

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "python" / "fastserve" / "_C"
ROOMS = ("kv", "sched", "offload", "kernels")


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="newer Pythons name the buffer protocol otherwise")
def test_the_stubs_match_the_compiled_module(tmp_path):
    command = [sys.executable, ROOT / "third_party/write_stubs.py", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    generated = {path.name: path.read_text() for path in (tmp_path / "fastserve" / "_C").glob("*.pyi")}
    stored = {path.name: path.read_text() for path in STUBS.glob("*.pyi")}
    assert generated == stored, "the stubs are out of date: run `make stubs`"


def array_names(owner: type) -> list[str]:
    """Names of the arrays of a class of the core: its C getters, but that of attributes which a caller may add."""
    return [name for name, member in vars(owner).items() if inspect.isgetsetdescriptor(member) and name != "__dict__"]


def stub_properties(room: str, owner: str) -> Iterator[tuple[str, str]]:
    """(name, what it returns) of the properties that a stub gives a class."""
    (body,) = (
        node.body
        for node in ast.parse((STUBS / f"{room}.pyi").read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == owner
    )
    for node in body:
        if isinstance(node, ast.FunctionDef) and [ast.unparse(d) for d in node.decorator_list] == ["property"]:
            assert node.returns is not None, f"{owner}.{node.name} has no type"
            yield node.name, ast.unparse(node.returns)


@pytest.fixture
def filled() -> dict[type, object]:
    """One of each class that has arrays, by class."""
    scheduler = Scheduler(
        SchedulerConfig(max_model_len=40), KvManager(block_size=4, num_device_blocks=16), LatencyModel()
    )
    scheduler.add(1, np.arange(6, dtype=np.int32), RequestOptions(max_tokens=2), now_s=0.0)
    plan = scheduler.schedule(0.0)
    scheduler.commit(plan.step, np.full(plan.num_samples, 5, np.int32), 0.01, 0.1)
    return {StepPlan: plan, StepEvents: scheduler.take_events()}


@pytest.mark.parametrize("owner", [StepPlan, StepEvents])
def test_every_array_is_in_the_stub_with_its_dtype(owner, filled):
    written = dict(stub_properties("sched", owner.__name__))
    names = array_names(owner)
    assert len(names) >= 5
    for name in names:
        array = getattr(filled[owner], name)
        assert written[name] == f"numpy.typing.NDArray[numpy.{array.dtype}]", name


def test_the_stub_gives_the_shape_of_every_array():
    for owner in (StepPlan, StepEvents):
        for name in array_names(owner):
            doc = vars(owner)[name].__doc__
            assert doc.split()[1].startswith("["), f"{owner.__name__}.{name}: {doc}"


def test_no_other_class_of_the_core_has_arrays():
    classes = [c for room in ROOMS for c in vars(getattr(_C, room)).values() if inspect.isclass(c)]
    assert len(classes) > 10
    assert {c for c in classes if array_names(c)} == {StepPlan, StepEvents}


def test_the_stub_of_the_package_has_its_public_names():
    body = ast.parse((ROOT / "python/fastserve/__init__.pyi").read_text()).body
    imported = {alias.asname for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    declared = {ast.unparse(node.target) for node in body if isinstance(node, ast.AnnAssign)}
    assert imported | declared == set(fastserve.__all__)
    assert all(hasattr(fastserve, name) for name in fastserve.__all__)
