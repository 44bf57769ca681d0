"""Outputs have the form that was asked for, whatever happens to their requests in between."""

import contextlib
import json
import re
from collections.abc import Iterator

import pytest

from fastserve.config import ModelConfig
from fastserve.engine.core import EngineCore
from fastserve.tokenizer import load_tokenizer
from fastserve.types import SamplingParams, StructuredOutputs
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


def test_two_ranks_give_the_same_tokens() -> None:
    sizes = {"num_attention_heads": 8, "hidden_size": 256, "num_key_value_heads": 2, "intermediate_size": 256}
    options = {"model": str(tiny_checkpoint("llama", **sizes)), "num_threads": 1}
    with engine(**options) as driver:
        alone = run_forms(driver)
    with core_on_ranks(engine_config(tensor_parallel_size=2, **options)) as core:
        driver = Driver(core)
        assert run_forms(driver) == alone
        assert run_forms(driver, first_id=100, k=2) == alone
        driver.add(200, PROMPTS[0], seeded(StructuredOutputs(regex="a("), seed=0))
        driver.run()
        assert driver.last[200].error.startswith("structured_outputs.regex cannot be used: ")
