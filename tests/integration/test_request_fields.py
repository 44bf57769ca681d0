"""Each field of a request changes the tokens of a real engine the way its description says."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fastserve._C.sched import RequestOptions
from fastserve.engine import core
from fastserve.engine.core import EngineCore
from fastserve.types import EngineOutput, FinishReason, SamplingParams
from tests.checkpoints import copy_checkpoint, edit_config, tiny_checkpoint
from tests.integration.engine_driver import Driver, engine_config

PROMPT = [5, 17, 300, 41, 7, 5, 17, 300]
GREEDY = SamplingParams(temperature=0.0, max_tokens=32, ignore_eos=True)
HOT = SamplingParams(temperature=5.0, seed=1, max_tokens=32, ignore_eos=True)


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    core = EngineCore.from_config(engine_config(enable_prefix_caching=True))
    yield Driver(core)
    core.close()


def tokens_of(driver: Driver, sampling: SamplingParams) -> list[int]:
    request_id = len(driver.tokens)
    driver.add(request_id, PROMPT, sampling)
    driver.run()
    return driver.tokens[request_id]


def end_of(driver: Driver) -> EngineOutput:
    """The last output of the newest request."""
    return driver.last[max(driver.last)]


@pytest.fixture(scope="module")
def greedy(driver: Driver) -> list[int]:
    return tokens_of(driver, GREEDY)


@pytest.mark.parametrize("count", [1, 7])
def test_max_tokens_is_the_length(driver, greedy, count):
    assert tokens_of(driver, replace(GREEDY, max_tokens=count)) == greedy[:count]
    assert end_of(driver).finish_reason is FinishReason.LENGTH


def test_temperature_flattens_the_choice(driver, greedy):
    assert tokens_of(driver, replace(GREEDY, temperature=5.0, seed=1)) != greedy


@pytest.mark.parametrize("fields", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
def test_the_tightest_choice_is_the_likeliest_token(driver, greedy, fields):
    assert tokens_of(driver, HOT) != greedy
    assert tokens_of(driver, replace(HOT, **fields)) == greedy


def test_seed_repeats_the_samples(driver):
    first = tokens_of(driver, HOT)
    assert tokens_of(driver, HOT) == first
    assert tokens_of(driver, replace(HOT, seed=2)) != first


@pytest.mark.parametrize(
    "fields", [{"repetition_penalty": 10.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}], ids=str
)
def test_penalties_lead_away_from_what_was_said(driver, greedy, fields):
    assert len(set(greedy)) < len(greedy), "without a penalty it repeats itself"
    penalised = tokens_of(driver, replace(GREEDY, **fields))
    assert len(set(penalised)) > len(set(greedy))


def test_stop_token_ids_end_the_output_and_min_tokens_puts_that_off(driver, greedy):
    stop = greedy[3]
    at = greedy.index(stop)
    assert tokens_of(driver, replace(GREEDY, stop_token_ids=(stop,))) == greedy[: at + 1]
    assert (end_of(driver).finish_reason, end_of(driver).stop_token_id) == (FinishReason.STOP, stop)
    later = tokens_of(driver, replace(GREEDY, stop_token_ids=(stop,), min_tokens=10))
    assert len(later) > 10
    assert stop not in later[:10]


def test_ignore_eos_goes_on_after_the_end_of_sequence(driver, greedy, tmp_path: Path):
    folder = copy_checkpoint(tiny_checkpoint("llama"), tmp_path / "llama")
    (folder / "generation_config.json").unlink()
    edit_config(folder, eos_token_id=greedy[3])
    core = EngineCore.from_config(engine_config(model=str(folder)))
    try:
        ending = Driver(core)
        assert tokens_of(ending, replace(GREEDY, ignore_eos=False)) == greedy[: greedy.index(greedy[3]) + 1]
        assert tokens_of(ending, GREEDY) == greedy
    finally:
        core.close()


def test_a_bias_makes_a_token_sure_or_impossible(driver, greedy):
    assert tokens_of(driver, replace(HOT, logit_bias={9: 100.0})) == [9] * 32
    assert greedy[0] not in tokens_of(driver, replace(GREEDY, logit_bias={greedy[0]: -100.0}))


def test_allowed_tokens_are_the_only_ones(driver, greedy):
    assert set(tokens_of(driver, replace(HOT, allowed_token_ids=(3, 8, 20)))) == {3, 8, 20}
    assert tokens_of(driver, replace(GREEDY, allowed_token_ids=tuple(greedy))) == greedy
    only = tokens_of(driver, replace(HOT, allowed_token_ids=(3, 8), logit_bias={8: 100.0, 9: 100.0}))
    assert only == [8] * 32


@pytest.mark.parametrize("length", [1, 2, 4])
def test_a_banned_sequence_is_not_written_but_its_beginning_is(driver, greedy, length):
    word = tuple(greedy[4 : 4 + length])
    request_id = len(driver.tokens)
    driver.add(request_id, PROMPT, GREEDY, bad_word_ids=((9, 8, 7), word))
    driver.run()
    tokens = driver.tokens[request_id]
    assert tokens[: 3 + length] == greedy[: 3 + length]
    assert all(tuple(tokens[i : i + length]) != word for i in range(len(tokens)))


@pytest.mark.parametrize("logprobs", [None, 0, 3])
def test_logprobs_come_in_the_number_asked_for(driver, logprobs):
    driver.add(len(driver.tokens), PROMPT, replace(GREEDY, logprobs=logprobs, max_tokens=4))
    rows = []
    while driver.core.has_work():
        rows += [row for output in driver.core.step() for row in output.logprobs]
    assert [len(row.top_ids) for row in rows] == ([] if logprobs is None else [logprobs] * 4)


def test_cache_salt_keeps_prefixes_apart(driver):
    def cached(salt: str) -> int:
        driver.add(request_id := len(driver.tokens), list(range(100, 140)), GREEDY, cache_salt=salt)
        driver.run()
        return driver.last[request_id].num_cached_tokens

    assert [cached(salt) > 0 for salt in ("a", "b", "a", "")] == [False, False, True, False]


def test_length_class_reaches_the_scheduler(driver):
    first = len(driver.tokens)
    for request_id, name in enumerate(("chat", "code", "chat", ""), start=first):
        driver.add(request_id, PROMPT, GREEDY, length_class=name)
    chat, code, again, none = (driver.core.explain(first + i)["length_class"] for i in range(4))
    assert chat == again and len({chat, code, none}) == 3 and none == 0
    driver.run()


def test_priority_goes_before_arrival(driver):
    first, second, urgent = range(len(driver.tokens), len(driver.tokens) + 3)
    for request_id, priority in ((first, 0), (second, 0), (urgent, -3)):
        driver.add(request_id, PROMPT, GREEDY, priority=priority)
    ahead = [driver.core.explain(request_id)["requests_ahead"] for request_id in (first, second, urgent)]
    assert ahead == [1, 2, 0]
    driver.run()


def test_deadline_ends_a_request_with_an_error(driver):
    driver.add(request_id := len(driver.tokens), PROMPT, replace(GREEDY, max_tokens=200), deadline_s=1e-6)
    driver.run()
    assert driver.last[request_id].finish_reason is FinishReason.DEADLINE
    assert "deadline" in driver.last[request_id].error


@pytest.mark.parametrize(("asked", "given"), [(None, 256 - 8), (1000, 256 - 8), (7, 7)])
def test_the_scheduler_gets_the_limit_cut_to_what_the_prompt_leaves(driver, monkeypatch, asked, given):
    limits = []

    def options(**fields: object) -> object:
        limits.append(fields["max_tokens"])
        return RequestOptions(**fields)

    monkeypatch.setattr(core, "RequestOptions", options)
    driver.add(request_id := len(driver.tokens), PROMPT, replace(GREEDY, max_tokens=asked))
    driver.core.abort(request_id)
    driver.run()
    assert limits == [given]
