"""A request that cannot run fails alone, wherever in a step that shows; its neighbours' tokens do not change."""

import dataclasses

import numpy as np
import pytest
import torch

from fastserve._C.sched import StepPlan
from fastserve.engine import outputs
from fastserve.engine.core import EngineCore
from fastserve.errors import DeviceError
from fastserve.models.decoder import Decoder
from fastserve.ops.sampling import SamplingBatch
from fastserve.types import FinishReason, SamplingParams
from fastserve.worker import runner as runner_module
from fastserve.worker.request_changes import RequestStart
from fastserve.worker.request_table import RequestTable, SamplingEntries
from tests.fake_device import FakeDevice, use_device
from tests.integration.engine_driver import Driver, engine_config, random_prompts

NUM_NEIGHBOURS = 8
BAD = 99  # the request that is made to fail
BAD_SEED = 123_456_789
BAD_TOP = 7  # log-probabilities that only the bad request asks for
BAD_TOKEN = 1  # in no other prompt, and banned from every output
PROMPTS = random_prompts(NUM_NEIGHBOURS)
HEALTHY = [
    SamplingParams(max_tokens=24, ignore_eos=True, temperature=temperature, seed=seed, repetition_penalty=penalty,
                   logprobs=logprobs, min_tokens=24, stop_token_ids=(BAD_TOKEN,))
    for seed, (temperature, penalty, logprobs) in enumerate([(0.0, 1.0, None), (0.9, 1.2, None), (0.7, 1.0, 2),
                                                             (0.0, 1.1, 3)] * 2)
]  # fmt: skip
VICTIM = SamplingParams(max_tokens=12, seed=BAD_SEED, repetition_penalty=1.3, logprobs=BAD_TOP, ignore_eos=True,
                        temperature=0.8, min_tokens=12, stop_token_ids=(BAD_TOKEN,))  # fmt: skip
SHORT, LONG = [5, 6, BAD_TOKEN, 7], [*range(3, 60), BAD_TOKEN, *range(3, 20)]


def fail(where: str) -> None:
    raise RuntimeError(f"injected into {where}")


def has_bad_seed(seeds: np.ndarray | torch.Tensor) -> bool:
    return BAD_SEED in np.asarray(seeds).tolist()


def in_settings(patch: pytest.MonkeyPatch) -> None:
    entries = RequestTable.entries

    def failing(self: RequestTable, plan: StepPlan) -> SamplingEntries:
        found = entries(self, plan)
        return fail("settings") if has_bad_seed(found.batch.seeds) else found

    patch.setattr(RequestTable, "entries", failing)


def in_history(patch: pytest.MonkeyPatch) -> None:
    histories = RequestTable._histories

    def failing(self: RequestTable, slots: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, ...]:
        found = histories(self, slots, lengths)
        return fail("history") if BAD_TOKEN in found[1] else found

    patch.setattr(RequestTable, "_histories", failing)


def in_the_start(patch: pytest.MonkeyPatch) -> None:
    write = RequestTable._write

    def failing(self: RequestTable, start: RequestStart) -> None:
        if start.seed == BAD_SEED:
            fail("the start")
        write(self, start)

    patch.setattr(RequestTable, "_write", failing)


def in_mask(patch: pytest.MonkeyPatch) -> None:
    def has_bans(settings: SamplingBatch) -> bool:
        starts, seeds = np.asarray(settings.banned_start), np.asarray(settings.seeds)
        return has_bad_seed(seeds[np.diff(starts) > 0])

    sample = runner_module.sample
    patch.setattr(
        runner_module, "sample",
        lambda logits, settings, **out: fail("mask") if has_bans(settings) else sample(logits, settings, **out),
    )  # fmt: skip


def in_logprobs(patch: pytest.MonkeyPatch) -> None:
    read = runner_module.token_logprobs
    patch.setattr(
        runner_module, "token_logprobs",
        lambda logits, tokens, top, **out: fail("logprobs") if top == BAD_TOP else read(logits, tokens, top, **out),
    )  # fmt: skip


def in_model(patch: pytest.MonkeyPatch) -> None:
    forward = Decoder.forward
    patch.setattr(
        Decoder, "forward",
        lambda self, ids, *rest, **out: fail("model") if BAD_TOKEN in ids.tolist() else forward(self, ids, *rest, **out),
    )  # fmt: skip


def in_outputs(patch: pytest.MonkeyPatch) -> None:
    read = outputs._logprobs_of
    patch.setattr(
        outputs, "_logprobs_of", lambda arrays, at, top: fail("outputs") if top == BAD_TOP else read(arrays, at, top)
    )


def in_statistics(patch: pytest.MonkeyPatch) -> None:
    read = outputs._stats
    patch.setattr(
        outputs,
        "_stats",
        lambda s, request_id, now_s: fail("statistics") if request_id == BAD else read(s, request_id, now_s),
    )


INJECTIONS = [in_settings, in_history, in_mask, in_logprobs, in_model, in_the_start, in_outputs, in_statistics]


@pytest.fixture(params=["cpu", "gpu"])
def runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the next engines run: on the CPU or on a simulated GPU."""
    if request.param == "gpu":
        use_device(FakeDevice(), monkeypatch.setattr)
    return request.param


@pytest.fixture(scope="module")
def undisturbed() -> list[tuple[int, ...]]:
    core = EngineCore.from_config(engine_config(max_num_seqs=16))
    try:
        driver = Driver(core)
        add_neighbours(driver)
        driver.run()
        return tokens_of_neighbours(driver)
    finally:
        core.close()


def add_neighbours(driver: Driver) -> None:
    for request_id, (prompt, sampling) in enumerate(zip(PROMPTS, HEALTHY, strict=True)):
        driver.add(request_id, prompt, sampling)


def tokens_of_neighbours(driver: Driver) -> list[tuple[int, ...]]:
    assert all(driver.last[i].finish_reason is FinishReason.LENGTH for i in range(NUM_NEIGHBOURS))
    return [tuple(driver.tokens[i]) for i in range(NUM_NEIGHBOURS)]


@pytest.mark.parametrize("async_scheduling", [True, False], ids=["ahead", "in turn"])
@pytest.mark.parametrize("inject", INJECTIONS, ids=lambda inject: inject.__name__)
def test_an_error_in_one_row_ends_that_request_alone(
    make_driver, runner, undisturbed, monkeypatch, inject, async_scheduling
):
    driver = make_driver(max_num_seqs=16, async_scheduling=async_scheduling)
    inject(monkeypatch)
    add_neighbours(driver)
    for _ in range(4):
        driver.step()
    driver.add(BAD, SHORT, VICTIM)
    driver.run()
    assert driver.last[BAD].finish_reason is FinishReason.ERROR
    assert "injected into" in driver.last[BAD].error
    assert tokens_of_neighbours(driver) == undisturbed
    driver.check_drained()


def test_a_row_that_fails_before_its_prompt_is_read_ends_alone(make_driver, runner, undisturbed, monkeypatch):
    driver = make_driver(max_num_seqs=16)
    in_model(monkeypatch)
    driver.add(BAD, LONG, VICTIM)  # three chunks, the second one fails
    add_neighbours(driver)
    driver.run()
    assert "injected into model" in driver.last[BAD].error and not driver.tokens[BAD]
    assert tokens_of_neighbours(driver) == undisturbed
    driver.check_drained()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"repetition_penalty": 0.0}, "sampling setting"),
        ({"temperature": np.nan}, "sampling setting"),
        ({"top_p": 2.0}, "sampling setting"),
        ({"history_tokens": 2**30}, "the tokens that the penalties"),
    ],
    ids=str,
)
def test_numbers_that_got_past_every_check_fail_their_row(make_driver, undisturbed, monkeypatch, change, why):
    make = RequestTable.entries

    def spoiled(self: RequestTable, plan: StepPlan) -> SamplingEntries:
        found = make(self, plan)
        entry = np.flatnonzero(found.batch.seeds == BAD_SEED)
        ((name, bad),) = change.items()
        values = np.array(getattr(found.batch, name))
        values[found.batch.history_start[entry] if name == "history_tokens" else entry] = bad
        return dataclasses.replace(found, batch=dataclasses.replace(found.batch, **{name: values}))

    driver = make_driver(max_num_seqs=16)
    monkeypatch.setattr(RequestTable, "entries", spoiled)
    driver.add(BAD, SHORT, VICTIM)
    add_neighbours(driver)
    driver.run()
    assert driver.last[BAD].finish_reason is FinishReason.ERROR and why in driver.last[BAD].error
    assert tokens_of_neighbours(driver) == undisturbed
    driver.check_drained()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_without_a_finite_logit_ends_alone(make_driver, runner, undisturbed, monkeypatch, bad):
    sample = runner_module.sample

    def spoiled(logits, settings, **out):
        logits[np.flatnonzero(np.asarray(settings.seeds) == BAD_SEED)] = bad
        return sample(logits, settings, **out)

    monkeypatch.setattr(runner_module, "sample", spoiled)
    driver = make_driver(max_num_seqs=16)
    driver.add(BAD, SHORT, VICTIM)
    add_neighbours(driver)
    driver.run()
    assert driver.last[BAD].error.startswith("the model gave no finite logit")
    assert tokens_of_neighbours(driver) == undisturbed
    driver.check_drained()


def test_stop_tokens_outside_the_vocabulary_are_harmless(make_driver, runner, undisturbed):
    driver = make_driver(max_num_seqs=16)
    driver.add(BAD, SHORT, SamplingParams(max_tokens=4, min_tokens=3, stop_token_ids=(2**31 - 1,)))
    add_neighbours(driver)
    driver.run()
    assert driver.last[BAD].error is None
    assert tokens_of_neighbours(driver) == undisturbed


@pytest.mark.parametrize("inject", INJECTIONS[:6], ids=lambda inject: inject.__name__)
def test_an_engine_that_gets_nothing_but_bad_requests_goes_on(make_driver, runner, monkeypatch, inject):
    driver = make_driver()
    inject(monkeypatch)
    for request_id in range(5):
        driver.add(request_id, SHORT, VICTIM)
        driver.run()
        assert "injected into" in driver.last[request_id].error
    driver.add(BAD, PROMPTS[0], HEALTHY[0])
    driver.run()
    assert driver.last[BAD].finish_reason is FinishReason.LENGTH
    driver.check_drained()


@pytest.mark.parametrize("broken", ["sample", "token_logprobs"])
def test_an_engine_that_cannot_run_a_row_of_its_own_either_gives_up(make_driver, runner, monkeypatch, broken):
    driver = make_driver()
    monkeypatch.setattr(runner_module, broken, lambda *_, **__: fail("every row"))
    for request_id in range(3):
        driver.add(request_id, SHORT, VICTIM)
    with pytest.raises(DeviceError, match="3 iterations in a row failed, the last with: injected into every row"):
        for request_id in range(3, 9):
            driver.run()
            driver.add(request_id, SHORT, VICTIM)
    assert driver.last[0].error.endswith("failed: RuntimeError: injected into every row")


def test_the_finish_of_a_request_that_is_in_no_plan_is_delivered(make_driver):
    driver = make_driver(async_scheduling=False)
    driver.add(0, PROMPTS[0])
    while not driver.tokens[0]:
        driver.step()
    driver.core.abort(0)
    assert driver.core.has_work()
    driver.run()
    assert driver.last[0].finish_reason is FinishReason.ABORT
