"""Statistics of the generators, with fixed seeds: tolerances are four standard errors or more."""

import numpy as np
import pytest

from fastserve.errors import InvalidArgumentError
from fastserve.workload import (
    Arrivals,
    RampUp,
    fixed_arrivals,
    gamma_arrivals,
    lognormal_lengths,
    poisson_arrivals,
    replayed_arrivals,
    uniform_lengths,
)
from fastserve.workload.arrivals import turn_arrivals

N = 100_000


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 4.0])
def test_gamma_gaps_have_the_rate_and_the_burstiness(burstiness):
    gaps = np.diff(gamma_arrivals(5.0, N, rng(), burstiness=burstiness), prepend=0.0)
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(0.2, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness**-0.5, rel=0.03)


def test_poisson_counts_per_second_have_equal_mean_and_variance():
    counts = np.bincount(poisson_arrivals(20.0, N, rng()).astype(int))[:-1]
    assert counts.mean() == pytest.approx(20.0, rel=0.02)
    assert counts.var() == pytest.approx(20.0, rel=0.1)


def test_infinite_rate_is_all_at_once_and_fixed_rate_is_even():
    np.testing.assert_array_equal(gamma_arrivals(np.inf, 3, rng()), np.zeros(3))
    np.testing.assert_array_equal(fixed_arrivals(np.inf, 3), np.zeros(3))
    np.testing.assert_allclose(fixed_arrivals(4.0, 3), [0.0, 0.25, 0.5])


def test_replay_starts_at_zero_and_keeps_its_gaps():
    np.testing.assert_allclose(replayed_arrivals(np.array([5.0, 6.0, 9.0]), speed=2.0), [0.0, 0.5, 2.0])
    assert len(replayed_arrivals(np.zeros(0))) == 0


def test_turns_wait_a_think_time_after_the_turn_before():
    turn = np.tile(np.arange(5), N // 5)
    start_s = np.repeat(np.arange(N // 5) * 10.0, 5)
    arrival_s = turn_arrivals(start_s, turn, rng(), think_time_s=3.0)
    np.testing.assert_allclose(arrival_s[turn == 0], start_s[turn == 0], atol=1e-6)
    gaps = np.diff(arrival_s)[turn[1:] > 0]
    assert gaps.min() >= 0 and gaps.mean() == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize(("mean", "sigma"), [(58.5, 1.0), (400.0, 0.3), (7.0, 0.0)])
def test_lognormal_lengths_have_the_mean_asked_for(mean, sigma):
    lengths = lognormal_lengths(mean, N, rng(), sigma=sigma)
    assert lengths.min() >= 1 and lengths.mean() == pytest.approx(mean, rel=0.02)
    assert np.log(lengths).std() == pytest.approx(sigma, abs=0.02)


def test_uniform_lengths_fill_their_range():
    assert set(uniform_lengths(10, 1000, rng(), range_ratio=0.2)) == {8, 9, 10, 11, 12}
    assert set(uniform_lengths(10, 100, rng())) == {10}
    assert uniform_lengths(1, 100, rng(), range_ratio=0.9).min() == 1


@pytest.mark.parametrize(
    ("strategy", "rates"), [("linear", [1.0, 3.0, 5.0, 7.0, 9.0]), ("exponential", [1.0, 3**0.5, 3.0, 3**1.5, 9.0])]
)
def test_a_ramp_goes_evenly_or_by_equal_factors_from_rate_to_rate(strategy, rates):
    ramp = RampUp(strategy=strategy, start_rps=1.0, end_rps=9.0)
    assert ramp.rates(5) == pytest.approx(np.array(rates))
    assert ramp.rates(1) == pytest.approx([1.0])
    even = Arrivals(burstiness=float("inf"), ramp_up=ramp).times(5, rng())
    assert np.diff(even) == pytest.approx(1.0 / np.array(rates[1:]))
    assert Arrivals(burstiness=float("inf"), ramp_up=ramp).scaled(2.0).times(5, rng()) == pytest.approx(even / 2)


def test_gaps_of_a_ramp_have_its_rate_of_the_moment_and_the_burstiness():
    ramp = RampUp(strategy="linear", start_rps=2.0, end_rps=10.0)
    gaps = np.diff(Arrivals(burstiness=4.0, ramp_up=ramp).times(N, rng()), prepend=0.0)
    for part, rate in ((slice(0, N // 20), 2.2), (slice(-N // 20, None), 9.8)):
        assert gaps[part].mean() == pytest.approx(1 / rate, rel=0.03)
        assert gaps[part].std() / gaps[part].mean() == pytest.approx(0.5, rel=0.05)
    flat = Arrivals(ramp_up=RampUp(strategy="exponential", start_rps=5.0, end_rps=5.0)).times(100, rng())
    assert flat == pytest.approx(Arrivals(rate=5.0).times(100, rng()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gamma_arrivals(0.0, 1, rng()), "rate must be above 0 requests per second, got 0.0"),
        (lambda: gamma_arrivals(float("nan"), 1, rng()), "rate must be above 0"),
        (lambda: gamma_arrivals(1.0, 1, rng(), burstiness=0.0), "burstiness must be above 0 and finite, got 0.0"),
        (lambda: fixed_arrivals(-1.0, 1), "rate must be above 0"),
        (lambda: RampUp(strategy="steps", start_rps=1.0, end_rps=2.0), "a ramp must be one of linear, exponential"),
        (lambda: RampUp(strategy="linear", start_rps=0.0, end_rps=2.0), "must start above 0 requests per second"),
        (lambda: RampUp(strategy="linear", start_rps=3.0, end_rps=2.0), "at no lower rate, got 3.0 to 2.0"),
        (lambda: RampUp(strategy="linear", start_rps=3.0, end_rps=np.inf), "at no lower rate, got 3.0 to inf"),
        (lambda: replayed_arrivals(np.zeros(1), speed=0.0), "speed of a replay must be above 0"),
        (lambda: turn_arrivals(np.zeros(1), np.zeros(1), rng(), think_time_s=-1.0), "think_time_s must be at least 0"),
        (lambda: uniform_lengths(0, 1, rng()), "lengths must be at least 1 token, got 0"),
        (lambda: uniform_lengths(5, 1, rng(), range_ratio=1.0), "range ratio of lengths must be in"),
        (lambda: lognormal_lengths(5, 1, rng(), sigma=9.0), "sigma of log-normal lengths must be in"),
    ],
)
def test_values_out_of_range_are_refused(call, message):
    with pytest.raises(InvalidArgumentError, match=message):
        call()
