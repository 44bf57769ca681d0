"""Notice when watched requests are parked, resumed or moved."""

from collections.abc import Callable, Iterable

from fastserve.log import get_logger

logger = get_logger(__name__)

WATCH_INTERVAL_S = 0.05

Facts = dict[str, object]


class RequestWatch:
    """Compares the scheduler's facts about the watched requests, at most every WATCH_INTERVAL_S.

    A change is a change of any textual fact: its state, or where its KV is. Numbers such as its wait always change.
    """

    def __init__(self, explain: Callable[[int], Facts | None]) -> None:
        """Use `explain`, which returns the facts about a request or None when it is unknown or finished."""
        self._explain = explain
        self._last: dict[int, Facts] = {}
        self._next_s = 0.0

    def add(self, request_id: int) -> None:
        """Watch a request until it finishes."""
        self._last[request_id] = {}

    def changes(self, now_s: float) -> Iterable[tuple[int, Facts]]:
        """Yield (request, facts) of the requests that changed."""
        if not self._last or now_s < self._next_s:
            return
        self._next_s = now_s + WATCH_INTERVAL_S
        for request_id, last in list(self._last.items()):
            try:
                facts = self._explain(request_id)
            except Exception:
                logger.exception("request %d cannot be explained and is not watched any more", request_id)
                facts = None
            if facts is None:
                del self._last[request_id]
                continue
            texts: Facts = {name: value for name, value in facts.items() if isinstance(value, str)}
            if texts != last:
                self._last[request_id] = texts
                yield request_id, facts
