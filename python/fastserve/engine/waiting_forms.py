"""Requests that wait for the form of their output to be compiled; then they join the scheduler."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass

from fastserve.engine.request import EngineRequest
from fastserve.types import StructuredOutputs

MAX_KNOWN = 256  # forms that were compiled and that the workers keep as well


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """A request, when it came, seconds of the core's clock, and its form."""

    request: EngineRequest
    arrived_s: float
    form: StructuredOutputs


class WaitingForms:
    """Has one form compiled after the other, in the order of the first requests for them. One thread uses it."""

    def __init__(self, prepare: Callable[[StructuredOutputs], "Future[object]"]) -> None:
        """`prepare` begins to compile a form; see Executor."""
        self._prepare = prepare
        self._known: OrderedDict[StructuredOutputs, None] = OrderedDict()
        self._waiting: deque[WaitingRequest] = deque()
        self._form: StructuredOutputs | None = None  # that is being compiled
        self._compiled: Future[object] | None = None

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def knows(self, form: StructuredOutputs) -> bool:
        """Whether a request for this form need not wait."""
        if form not in self._known:
            return False
        self._known.move_to_end(form)
        return True

    def add(self, waiting: WaitingRequest) -> None:
        """Have a request wait."""
        self._waiting.append(waiting)
        self._go_on()

    def remove(self, request_id: int) -> bool:
        """Take a request out; returns whether it waited."""
        kept = [waiting for waiting in self._waiting if waiting.request.request_id != request_id]
        found = len(kept) < len(self._waiting)
        self._waiting = deque(kept)
        return found

    def expired(self, now_s: float) -> list[EngineRequest]:
        """Take out the requests whose deadline has passed."""
        late = [
            waiting.request
            for waiting in self._waiting
            if (limit_s := waiting.request.scheduling.deadline_s) is not None and waiting.arrived_s + limit_s <= now_s
        ]
        for request in late:
            self.remove(request.request_id)
        return late

    def ready(self, timeout_s: float) -> Iterator[tuple[WaitingRequest, BaseException | None]]:
        """Take out the requests whose form was compiled, or could not be, and why.

        Args:
            timeout_s: how long to wait for the form that is being compiled.
        """
        if self._compiled is None:
            return
        wait([self._compiled], timeout_s)
        while (compiled := self._compiled) is not None and compiled.done():
            form, error = self._form, compiled.exception()
            self._form = self._compiled = None
            if error is None and form is not None:
                self._known[form] = None
                if len(self._known) > MAX_KNOWN:
                    self._known.popitem(last=False)
            for waiting in [waiting for waiting in self._waiting if waiting.form == form]:
                self._waiting.remove(waiting)
                yield waiting, error
            self._go_on()

    def _go_on(self) -> None:
        if self._compiled is None and self._waiting:
            self._form = self._waiting[0].form
            self._compiled = self._prepare(self._form)
