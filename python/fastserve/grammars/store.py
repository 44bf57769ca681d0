"""The compiled forms of an engine: each compiled once, on a thread of its own, and kept for the next request."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from fastserve.grammars.vocabulary import token_table
from fastserve.tokenizer.tokenizer import Tokenizer
from fastserve.types import StructuredOutputs

if TYPE_CHECKING:  # imports torch and transformers; only where a request asks for a form
    import xgrammar

    from fastserve.grammars.compiler import FormCompiler

MAX_FORMS = 256
MAX_FORM_BYTES = 256 << 20  # of the forms that are kept; what requests use goes on living


class FormStore:
    """Compiled forms by their text, the least recently used dropped first. For any thread."""

    def __init__(self, load_tokenizer: Callable[[], Tokenizer], vocab_size: int, end_token_ids: Sequence[int]) -> None:
        """Do nothing yet: the vocabulary is read for the first form.

        Args:
            load_tokenizer: of the model.
            vocab_size: of the model.
            end_token_ids: see `FormCompiler`.
        """
        self._load_tokenizer = load_tokenizer
        self.vocab_size = vocab_size
        self.end_token_ids = tuple(end_token_ids)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fastserve-forms")
        self._lock = threading.Lock()  # over the forms
        self._forms: OrderedDict[StructuredOutputs, Future[xgrammar.CompiledGrammar]] = OrderedDict()
        self._compiler: FormCompiler | None = None  # used by the thread alone

    def prepare(self, form: StructuredOutputs) -> "Future[xgrammar.CompiledGrammar]":
        """Begin to compile a form, unless it is known. The result may be an InvalidArgumentError: see `FormCompiler`."""
        with self._lock:
            found = self._forms.get(form)
            if found is not None:
                self._forms.move_to_end(form)
                return found
            found = self._forms[form] = self._thread.submit(self._compile, form)
        found.add_done_callback(lambda _: self._drop_old(form))
        return found

    def close(self) -> None:
        """Let the thread end; a form that is being compiled is not waited for."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _compile(self, form: StructuredOutputs) -> "xgrammar.CompiledGrammar":
        if self._compiler is None:
            from fastserve.grammars.compiler import FormCompiler

            self._compiler = FormCompiler(token_table(self._load_tokenizer(), self.vocab_size), self.end_token_ids)
        return self._compiler.compile(form)

    def _drop_old(self, newest: StructuredOutputs) -> None:
        """Keep to the bounds once a form was compiled; forget it if it cannot be."""
        with self._lock:
            compiled = self._forms.get(newest)
            if compiled is not None and compiled.done() and (compiled.cancelled() or compiled.exception() is not None):
                del self._forms[newest]
            num_bytes = sum(map(_num_bytes, self._forms.values()))
            while len(self._forms) > MAX_FORMS or (num_bytes > MAX_FORM_BYTES and len(self._forms) > 1):
                _, dropped = self._forms.popitem(last=False)
                num_bytes -= _num_bytes(dropped)


def _num_bytes(form: "Future[xgrammar.CompiledGrammar]") -> int:
    return form.result().memory_size_bytes if form.done() and not form.cancelled() and not form.exception() else 0
