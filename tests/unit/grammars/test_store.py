"""Forms are compiled once, beside everything else, and old ones are dropped."""

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.grammars import store as store_module
from fastserve.grammars.store import FormStore
from fastserve.tokenizer.tokenizer import Tokenizer
from fastserve.types import StructuredOutputs
from tests.unit.tokenizer import tiny

LIMIT_S = 60.0


@pytest.fixture
def store() -> Iterator[FormStore]:
    store = FormStore(lambda: Tokenizer(tiny.byte_level()), 400, [2])
    yield store
    store.close()


def form(number: int) -> StructuredOutputs:
    return StructuredOutputs(regex=f"a{{{number}}}")


def test_a_form_is_compiled_once_while_it_is_kept(store: FormStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_FORMS", 2)
    first = store.prepare(form(1)).result(LIMIT_S)
    store.prepare(form(2)).result(LIMIT_S)
    assert store.prepare(form(1)).result(LIMIT_S) is first
    store.prepare(form(3)).result(LIMIT_S)  # drops 2, which was used before 1
    assert store.prepare(form(1)).result(LIMIT_S) is first


def test_forms_are_dropped_when_they_take_too_much_memory(store: FormStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_FORM_BYTES", 1)
    first = store.prepare(form(1)).result(LIMIT_S)
    store.prepare(form(2)).result(LIMIT_S)
    store.prepare(form(3)).result(LIMIT_S)
    assert store.prepare(form(1)).result(LIMIT_S) is not first


def test_a_form_that_cannot_be_used_says_so_each_time(store: FormStore) -> None:
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match=r"structured_outputs.regex cannot be used"):
            store.prepare(StructuredOutputs(regex="(")).result(LIMIT_S)


def test_the_vocabulary_is_read_with_the_first_form_and_off_the_calling_thread() -> None:
    go_on, names = threading.Event(), []

    def load() -> Tokenizer:
        names.append(threading.current_thread().name)
        assert go_on.wait(LIMIT_S)
        return Tokenizer(tiny.byte_level())

    store = FormStore(load, 400, [2])
    compiled = store.prepare(form(1))
    assert not compiled.done()
    go_on.set()
    compiled.result(LIMIT_S)
    store.prepare(form(2)).result(LIMIT_S)
    assert len(names) == 1 and names[0].startswith("fastserve-forms")
    store.close()


def test_the_library_is_loaded_with_the_first_form_only() -> None:
    code = (
        "import sys, fastserve.worker.worker, fastserve.engine.llm, fastserve.server.app\n"
        "assert not {'xgrammar', 'tvm_ffi'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
