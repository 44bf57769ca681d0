"""A short seeded run of `bench.serving.fuzz`; the long one is `python -m bench.serving.fuzz --bodies 2000 --seed N`."""

from bench.serving.fuzz import HONEST_EVERY, fuzz


def test_hostile_requests_get_no_500_do_not_hang_and_hurt_no_honest_one():
    outcome = fuzz(bodies=200, seed=1)
    assert outcome.failures == []
    assert sum(outcome.kinds.values()) == 200 and len(outcome.kinds) > 10
    assert outcome.honest == 200 // HONEST_EVERY + 1
    assert {200, 400, 404} <= set(outcome.statuses)
