"""What may be restarted how often."""

from fastserve.server.restarts import PAUSE_S, WINDOW_S, RestartBudget


def test_restarts_beyond_the_limit_of_a_window_are_refused_until_it_has_moved_on():
    budget = RestartBudget(2)
    assert [budget.take(now_s) for now_s in (0.0, 10.0, 20.0)] == [True, True, False]
    assert not budget.take(WINDOW_S - 0.1)
    assert budget.take(WINDOW_S)  # the first one is a window ago
    assert not budget.take(WINDOW_S + 9.0)
    assert budget.take(WINDOW_S + 10.0)


def test_the_first_restart_comes_at_once_and_later_ones_ever_more_slowly():
    budget = RestartBudget(3)
    pauses = []
    for now_s in (0.0, 1.0, 2.0):
        budget.take(now_s)
        pauses.append(budget.pause_s)
    assert pauses == [0.0, PAUSE_S, 2 * PAUSE_S]


def test_no_restart_is_left_where_none_was_asked_for():
    assert not RestartBudget(0).take(0.0)
