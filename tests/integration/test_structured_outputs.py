"""Outputs have the form that was asked for, whatever happens to their requests in between."""

import contextlib
import json
import math
import re
from collections.abc import Iterator
from concurrent.futures import Future

import pytest

from fastserve.config import ModelConfig
from fastserve.engine.core import EngineCore
from fastserve.engine.llm import LLM
from fastserve.engine.request import EngineRequest
from fastserve.errors import OverloadedError
from fastserve.tokenizer import load_tokenizer
from fastserve.types import FinishReason, SamplingParams, StructuredOutputs
from tests.checkpoints import EOS_ID, PAD_ID, tiny_checkpoint
from tests.fake_device import FakeDevice, use_device
from tests.integration.engine_driver import GREEDY, Driver, engine_config, park_every, random_prompts
from tests.ranks import core_on_ranks

END_TOKENS = (EOS_ID, PAD_ID)
MAX_TOKENS = 180
PROMPTS = random_prompts(8)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "kind": {"enum": ["cat", "dog", "猫"]},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
            "names": {"type": "array", "items": {"type": "string", "maxLength": 6}, "minItems": 1, "maxItems": 2},
        },
        "required": ["kind", "age", "names"],
    }
)
FORMS = (
    StructuredOutputs(json=SCHEMA),
    StructuredOutputs(regex=r"[a-f]{3,9}-\d{2}"),
    StructuredOutputs(choice=("yes", "no", "perhaps not")),
    StructuredOutputs(grammar='root ::= "(" root ")" | [a-z]'),
)


def seeded(form: StructuredOutputs, seed: int, **changes: object) -> SamplingParams:
    fields = {"temperature": 0.9, "seed": seed, "max_tokens": MAX_TOKENS, "structured_outputs": form}
    return SamplingParams(**fields | changes)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(ModelConfig(model=str(tiny_checkpoint("llama"))))


@contextlib.contextmanager
def engine(**changes: object) -> Iterator[Driver]:
    core = EngineCore.from_config(engine_config(**changes))
    try:
        yield Driver(core)
    finally:
        core.close()


def run_forms(driver: Driver, *, first_id: int = 0, k: int | None = None) -> dict[int, list[int]]:
    """Requests of every form beside requests without one."""
    driver.steps = 0
    for i, prompt in enumerate(PROMPTS):
        sampling = GREEDY if i % 5 == 4 else seeded(FORMS[i % 5], seed=i)
        driver.add(first_id + i, prompt, sampling)
    driver.run(park_every(k) if k else None)
    driver.check_drained()
    return {i: driver.tokens[first_id + i] for i in range(len(PROMPTS))}


@pytest.fixture(scope="module")
def unparked() -> dict[int, list[int]]:
    with engine() as driver:
        return run_forms(driver)


def test_outputs_have_their_form_and_end_with_it(tokenizer, unparked) -> None:
    for i, tokens in unparked.items():
        if i % 5 == 4:
            continue
        if tokens[-1] in END_TOKENS:
            check(FORMS[i % 5], tokenizer.decode(tokens))
        else:  # a random model may write blank after blank
            assert FORMS[i % 5].json and len(tokens) == MAX_TOKENS


def check(form: StructuredOutputs, text: str) -> None:
    if form.json:
        value = json.loads(text)
        assert value["kind"] in ("cat", "dog", "猫") and 0 <= value["age"] <= 99 and 1 <= len(value["names"]) <= 2
    elif form.regex:
        assert re.fullmatch(form.regex, text)
    elif form.choice:
        assert text in form.choice
    else:
        assert re.fullmatch(r"\(*[a-z]\)*", text) and text.count("(") == text.count(")")


@pytest.mark.parametrize("k", [1, 2, 7])
def test_parking_changes_no_token(unparked, k) -> None:
    with engine(num_gpu_blocks_override=20) as driver:
        assert run_forms(driver, k=k) == unparked
        assert driver.core.scheduler.stats().offload_blocks > 0


def test_recomputing_and_a_shared_prefix_change_no_token(unparked) -> None:
    with engine(preemption_mode="recompute", enable_prefix_caching=True) as driver:
        assert run_forms(driver, k=8) == unparked
        assert run_forms(driver, first_id=100, k=8) == unparked
        assert driver.core.scheduler.stats().prefix_cache_hits > 0
        assert driver.core.scheduler.stats().recomputed_tokens > 0


def test_chunks_and_small_batches_change_no_token(unparked) -> None:
    with engine(max_num_seqs=2, max_prefill_chunk_tokens=8, async_scheduling=False) as driver:
        assert run_forms(driver) == unparked


@pytest.mark.parametrize("async_scheduling", [True, False])
def test_a_device_that_works_beside_the_host_gives_the_same_tokens(unparked, monkeypatch, async_scheduling) -> None:
    use_device(FakeDevice(), monkeypatch.setattr)
    with engine(async_scheduling=async_scheduling) as driver:
        assert run_forms(driver) == unparked
        assert run_forms(driver, first_id=100, k=2) == unparked


@pytest.mark.parametrize("size", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_two_ranks_give_the_same_tokens(size: str) -> None:
    sizes = {"num_attention_heads": 8, "hidden_size": 256, "num_key_value_heads": 2, "intermediate_size": 256}
    options = {"model": str(tiny_checkpoint("llama", **sizes)), "num_threads": 1}
    with engine(**options) as driver:
        alone = run_forms(driver)
    with core_on_ranks(engine_config(**options | {size: 2})) as core:
        driver = Driver(core)
        assert run_forms(driver) == alone
        assert run_forms(driver, first_id=100, k=2) == alone
        driver.add(200, PROMPTS[0], seeded(StructuredOutputs(regex="a("), seed=0))
        driver.run()
        assert driver.last[200].error.startswith("structured_outputs.regex cannot be used: ")


@pytest.fixture(scope="module")
def shared() -> Iterator[Driver]:
    """An engine for tests that leave nothing behind; each takes ids of its own."""
    with engine(max_num_queued_reqs=16) as driver:
        yield driver


def run_one(driver: Driver, request_id: int, form: StructuredOutputs, **changes: object) -> list[int]:
    driver.add(request_id, PROMPTS[0], seeded(form, 0, **changes))
    driver.run()
    driver.check_drained()
    return driver.tokens[request_id]


def test_the_end_of_a_form_is_held_back_as_long_as_anything_else_may_come(shared, tokenizer) -> None:
    letters = StructuredOutputs(regex="[a-z]{1,40}")
    for request_id, changes in enumerate(({"min_tokens": 9}, {"ignore_eos": True})):
        tokens = run_one(shared, request_id, letters, **changes)
        text = tokenizer.decode(tokens)
        assert len(tokens) > 9 or len(text) == 40
        assert tokens[-1] in END_TOKENS
        assert len(text) == 40 or "min_tokens" in changes
        assert shared.last[request_id].finish_reason is FinishReason.STOP
    tokens = run_one(shared, 2, letters, ignore_eos=True, max_tokens=4)
    assert len(tokens) == 4 and shared.last[2].finish_reason is FinishReason.LENGTH


def test_stop_tokens_and_other_settings_work_within_a_form(shared, tokenizer) -> None:
    letters = StructuredOutputs(regex="[ab]{30,60}")
    a, b = (tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "ab")
    tokens = run_one(shared, 10, letters, stop_token_ids=(b,), logit_bias={b: 5.0})
    assert tokens[-1] == b and shared.last[10].stop_token_id == b
    only_a = run_one(shared, 11, letters, allowed_token_ids=(a, *END_TOKENS))
    assert set(only_a[:-1]) == {a} and 30 <= len(only_a) - 1 <= 60
    with_all = run_one(shared, 12, letters, top_k=5, min_p=0.01, repetition_penalty=1.3, presence_penalty=0.5)
    assert re.fullmatch("[ab]{30,60}", tokenizer.decode(with_all))


def test_log_probabilities_are_those_behind_the_form(shared, tokenizer) -> None:
    shared.add(20, PROMPTS[0], seeded(StructuredOutputs(choice=("a", "b")), 0, logprobs=5, temperature=0.0))
    outputs = []
    while shared.unfinished:
        outputs += [output for output in shared.step() if output.logprobs]
    first = outputs[0].logprobs[0]
    assert {tokenizer.decode([i]) for i in first.top_ids if i >= 0} == {"a", "b"}
    assert first.rank == 1 and first.logprob == first.top_logprobs[0]
    assert sum(math.exp(value) for value in first.top_logprobs[:2]) == pytest.approx(1.0, abs=1e-5)


def test_a_row_whose_form_lets_nothing_come_fails_alone(shared, tokenizer) -> None:
    (a,) = tokenizer.encode("a", add_special_tokens=False)
    digits = StructuredOutputs(regex="[0-9]{4}")
    shared.add(30, PROMPTS[0], seeded(digits, 0, allowed_token_ids=(a,)))
    shared.add(31, PROMPTS[1], seeded(digits, 1))
    shared.add(32, PROMPTS[2])
    shared.run()
    shared.check_drained()
    assert shared.last[30].finish_reason is FinishReason.ERROR
    assert shared.last[30].error.endswith("bans and allowed tokens leave no token")
    assert re.fullmatch("[0-9]{4}", tokenizer.decode(shared.tokens[31]))
    assert len(shared.tokens[32]) == GREEDY.max_tokens


def test_a_form_that_cannot_be_used_is_an_error_of_its_request_alone(shared) -> None:
    shared.add(40, PROMPTS[0], seeded(StructuredOutputs(regex="a("), 0))
    shared.add(41, PROMPTS[1])
    shared.run()
    assert shared.last[40].error.startswith("structured_outputs.regex cannot be used: ")
    assert len(shared.tokens[41]) == GREEDY.max_tokens


@pytest.fixture
def slow(shared, monkeypatch) -> "Future[object]":
    """The future of the form that is compiled next; a test decides when it is done."""
    compiled: Future[object] = Future()
    prepare = shared.core._waiting_forms._prepare

    def prepare_slowly(form: StructuredOutputs) -> "Future[object]":
        prepare(form).result()
        return compiled

    monkeypatch.setattr(shared.core._waiting_forms, "_prepare", prepare_slowly)
    return compiled


def test_only_requests_for_a_form_wait_for_its_compiler(shared, slow) -> None:
    form = StructuredOutputs(regex="[0-4]{5}")
    for request_id in (50, 51):
        shared.add(request_id, PROMPTS[0], seeded(form, request_id))
    shared.add(52, PROMPTS[1])
    while 52 in shared.unfinished:
        shared.step()
    assert shared.unfinished == [50, 51] and shared.core.has_work()
    assert shared.step() == []  # waits a little
    slow.set_result(None)
    shared.run()
    assert all(len(shared.tokens[request_id]) > 1 for request_id in (50, 51))
    shared.add(53, PROMPTS[0], seeded(form, 50))  # known: joins at once
    assert shared.core.scheduler.num_unfinished == 1
    shared.run()
    assert shared.tokens[53] == shared.tokens[50]


def test_requests_that_wait_for_a_compiler_can_be_aborted_expire_and_count(shared, slow) -> None:
    form = StructuredOutputs(regex="[0-4]{6}")
    shared.add(60, PROMPTS[0], seeded(form, 0))
    shared.add(61, PROMPTS[0], seeded(form, 1), deadline_s=0.001)
    for request_id in range(62, 76):
        shared.add(request_id, PROMPTS[0], seeded(form, 1))
    with pytest.raises(OverloadedError):
        shared.core.add_request(EngineRequest.of(76, PROMPTS[0], seeded(form, 1)))
    for request_id in range(62, 76):
        shared.core.abort(request_id)
    shared.core.abort(60)
    while shared.unfinished:
        shared.step()
    assert shared.last[60].finish_reason is FinishReason.ABORT
    assert shared.last[61].finish_reason is FinishReason.DEADLINE
    assert not shared.core.has_work()
    slow.set_result(None)


def test_llm_takes_forms_and_reports_bad_ones() -> None:
    options = {"device": "cpu", "num_gpu_blocks_override": 64, "max_model_len": 128, "num_threads": 1}
    with LLM(str(tiny_checkpoint("llama")), **options) as llm:
        form = SamplingParams(n=2, seed=1, structured_outputs=StructuredOutputs(choice=("red", "green")))
        bad = SamplingParams(structured_outputs=StructuredOutputs(json="{"))
        good, failed = llm.generate(["Hi", "Hi"], [form, bad], use_tqdm=False)
    assert {output.text for output in good.outputs} <= {"red", "green"}
    assert [output.finish_reason for output in good.outputs] == [FinishReason.STOP] * 2
    assert failed.outputs[0].finish_reason is FinishReason.ERROR
    assert failed.outputs[0].error.startswith("structured_outputs.json cannot be used: ")
