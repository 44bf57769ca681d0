"""Watched requests report changes of state, not of numbers."""

import pytest

from fastserve.engine.watch import WATCH_INTERVAL_S, RequestWatch


def test_only_changes_of_textual_facts_are_reported() -> None:
    facts = {1: {"state": "waiting", "waited_s": 0.0}}
    watch = RequestWatch(facts.get)
    watch.add(1)
    assert list(watch.changes(0.0)) == [(1, facts[1])]
    facts[1] = {"state": "waiting", "waited_s": 9.0}
    assert list(watch.changes(1.0)) == []
    facts[1] = {"state": "running", "waited_s": 9.0}
    assert list(watch.changes(2.0)) == [(1, facts[1])]


def test_the_scheduler_is_not_asked_too_often() -> None:
    asked = []
    watch = RequestWatch(lambda request_id: asked.append(request_id) or {"state": str(len(asked))})
    watch.add(1)
    assert len(list(watch.changes(0.0))) == 1
    assert list(watch.changes(WATCH_INTERVAL_S / 2)) == []
    assert len(list(watch.changes(WATCH_INTERVAL_S))) == 1
    assert len(asked) == 2


def test_a_request_that_cannot_be_explained_is_forgotten_and_the_others_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    facts = {i: {"state": "waiting"} for i in range(9) if i != 4}
    watch = RequestWatch(facts.__getitem__)
    for request_id in range(9):
        watch.add(request_id)
    assert [request_id for request_id, _ in watch.changes(0.0)] == sorted(facts)
    assert "request 4 cannot be explained" in caplog.text
    facts[4] = {"state": "running"}
    assert list(watch.changes(1.0)) == []


def test_a_request_that_is_gone_is_forgotten() -> None:
    asked = []
    watch = RequestWatch(asked.append)
    watch.add(1)
    assert list(watch.changes(0.0)) == []
    assert list(watch.changes(1.0)) == []
    assert asked == [1]
