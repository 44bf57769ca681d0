"""Policies written in Python: they decide what the built-in ones would, they fail loudly, and they cannot break the order."""

import typing
from dataclasses import fields

import numpy as np
import pytest

from bench.examples.own_policy import FirstCome, LeastAttained
from fastserve._C.sched import SchedulerConfig as CoreConfig
from fastserve.config import Policy as PolicyName
from fastserve.errors import InvalidArgumentError
from fastserve.sim import Policy, QueuedRequest, SimulationResult, simulate
from tests.unit.sim.small import deployment, scheduler, workload


def run(policy: Policy | str, **columns: object) -> SimulationResult:
    load = workload(120, rate=40.0, **columns)
    if isinstance(policy, str):
        return simulate(load, deployment(), scheduler(policy), endings="known")
    return simulate(load, deployment(), scheduler("fcfs"), policy=policy)


def assert_same_runs(a: SimulationResult, b: SimulationResult) -> None:
    for column in fields(a.requests):
        np.testing.assert_array_equal(getattr(a.requests, column.name), getattr(b.requests, column.name), column.name)
    assert a.summary == b.summary


class InClasses(FirstCome):
    strict_priority = True


class ShortestRemaining(Policy):
    """As srpt, without its seconds of prefill: outputs alone."""

    def join(self, request: QueuedRequest, now_s: float) -> None:
        request.key = request.max_tokens

    def charge(self, request: QueuedRequest, iteration_s: float, next_iteration_s: float) -> None:
        request.key = request.max_tokens - request.output_tokens


def test_first_come_in_python_makes_the_plans_of_fcfs() -> None:
    assert_same_runs(run(FirstCome()), run("fcfs"))


def test_the_defaults_are_first_come_first_served() -> None:
    assert_same_runs(run(Policy()), run("fcfs"))


def test_strict_classes_in_python_make_the_plans_of_priority() -> None:
    priority = np.random.default_rng(1).integers(0, 3, 120)
    assert_same_runs(run(InClasses(), priority=priority), run("priority", priority=priority))


def test_the_order_follows_the_keys() -> None:
    ours, fcfs = run(ShortestRemaining()), run("fcfs")
    assert ours.summary.e2e_s.mean < 0.9 * fcfs.summary.e2e_s.mean
    assert ours.policy == "ShortestRemaining"


def test_a_request_that_was_moved_forward_runs_before_the_others() -> None:
    class Patient(LeastAttained):
        limit_s = float("inf")

    class Impatient(LeastAttained):
        limit_s = 0.2

    assert run(Impatient()).summary.longest_pause_s.max < run(Patient()).summary.longest_pause_s.max


class Fault(Exception):
    """What the policy of a test raises."""


@pytest.mark.parametrize("method", ["join", "leave", "charge", "promote", "may_start"])
def test_an_exception_of_the_policy_ends_the_simulation(method: str) -> None:
    def fail(*_args: object) -> None:
        raise Fault(method)

    with pytest.raises(Fault, match=method):
        run(type("Failing", (Policy,), {method: fail})())


@pytest.mark.parametrize("method", ["may_start", "leave"])
def test_keys_are_refused_where_they_would_change_the_order_under_a_walk(method: str) -> None:
    def late(_self: object, request: QueuedRequest, *_rest: object) -> bool:
        request.key = 1.0
        return True

    with pytest.raises(InvalidArgumentError, match="key"):
        run(type("Late", (Policy,), {method: late})())


def test_a_policy_may_start_requests_later() -> None:
    class Later(Policy):
        now_s = 0.0

        def promote(self, now_s: float) -> None:
            self.now_s = now_s

        def may_start(self, request: QueuedRequest) -> bool:
            return self.now_s > 10.0

    first_token_s = run(Later()).requests.first_token_s
    assert 10.0 < first_token_s.min() < 10.2
    assert np.isfinite(first_token_s).all()


def test_a_policy_that_never_starts_a_request_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match=r"Stubborn started no request .* may_start"):
        run(type("Stubborn", (Policy,), {"may_start": lambda _self, _request: False})())


def test_a_class_in_place_of_an_object_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="object of a class"):
        run(FirstCome)  # type: ignore[arg-type]


def test_a_key_that_is_no_number_is_refused() -> None:
    class NotANumber(Policy):
        def join(self, request: QueuedRequest, now_s: float) -> None:
            request.key = float("nan")

    with pytest.raises(InvalidArgumentError, match="NaN"):
        run(NotANumber())


@pytest.mark.parametrize(
    ("method", "answer"), [("may_start", None), ("estimate_s", float("nan")), ("estimate_s", "soon")]
)
def test_an_answer_of_the_wrong_kind_is_refused(method: str, answer: object) -> None:
    with pytest.raises(InvalidArgumentError, match=f"{method} must return"):
        run(type("Wrong", (Policy,), {method: lambda *_args: answer})())


def test_a_request_keeps_what_the_policy_attaches_to_it() -> None:
    seen = []

    class Attaching(Policy):
        def join(self, request: QueuedRequest, now_s: float) -> None:
            request.note = f"request {request.id}"  # type: ignore[attr-defined]

        def leave(self, request: QueuedRequest) -> None:
            seen.append(request.note)  # type: ignore[attr-defined]

    run(Attaching())
    assert sorted(seen) == sorted(f"request {i}" for i in range(120))


def test_the_names_of_policies_are_those_of_the_core() -> None:
    names = typing.get_args(PolicyName)
    assert names[0] == CoreConfig().policy
    for name in names:
        assert CoreConfig(policy=name).policy == name
