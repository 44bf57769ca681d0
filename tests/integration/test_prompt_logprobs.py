"""Log-probabilities of prompts are those of transformers, however the prompt is cut, parked, recomputed or shared."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fastserve.engine.llm import LLM
from fastserve.logprobs import TokenLogprobs
from fastserve.models.decoder import Decoder
from fastserve.types import FinishReason, SamplingParams
from tests.checkpoints import VOCAB_SIZE, reference_model, tiny_checkpoint
from tests.fake_device import FakeDevice, use_device
from tests.integration.engine_driver import GREEDY, Driver, park_every, random_prompts

TOLERANCE = 2e-4  # fp32 sums in another order: errors near 1e-5 on logits of size 2
NUM_TOP = 3
PROMPTS = [*random_prompts(6, low=40, high=120), [5], [7, 9]]
SCORED = dataclasses.replace(GREEDY, prompt_logprobs=NUM_TOP, max_tokens=4)


def reference(prompt: list[int]) -> np.ndarray:
    """Log-probabilities [len(prompt) - 1, vocabulary] of the tokens after each one."""
    with torch.inference_mode():
        logits = reference_model(tiny_checkpoint("llama"))(torch.tensor([prompt])).logits[0, :-1]
    return logits.double().log_softmax(1).numpy()


def assert_equal_to_transformers(prompt: list[int], entries: list[TokenLogprobs], num_top: int = NUM_TOP) -> None:
    expected = reference(prompt)
    assert len(entries) == len(prompt) - 1
    for token, entry, row in zip(prompt[1:], entries, expected, strict=True):
        assert entry.logprob == pytest.approx(row[token], abs=TOLERANCE)
        assert entry.rank in (1 + (row > row[token] + TOLERANCE).sum(), 1 + (row > row[token] - TOLERANCE).sum() - 1)
        assert len(entry.top_ids) == num_top
        np.testing.assert_allclose(entry.top_logprobs, np.sort(row)[::-1][:num_top], atol=TOLERANCE)
        np.testing.assert_allclose([row[i] for i in entry.top_ids], entry.top_logprobs, atol=TOLERANCE)


def scores_of(driver: Driver, prompts: list[list[int]], sampling: SamplingParams, between=None) -> list[list]:
    """The unpacked entries of each prompt, which come once, with the first output."""
    found: dict[int, list[TokenLogprobs]] = {}
    first = len(driver.tokens)
    for i, prompt in enumerate(prompts):
        driver.add(first + i, prompt, sampling)
    while driver.core.has_work():
        if between is not None:
            between(driver)
        for output in driver.step():
            if output.prompt_logprobs:
                assert output.request_id not in found
                found[output.request_id] = [entry for part in output.prompt_logprobs for entry in part.unpack()]
    driver.check_drained()
    return [found.get(first + i, []) for i in range(len(prompts))]


def test_they_equal_those_of_transformers_in_chunks_of_any_size(make_driver: Callable[..., Driver]):
    small = scores_of(make_driver(max_prefill_chunk_tokens=7), PROMPTS, SCORED)
    for prompt, entries in zip(PROMPTS, small, strict=True):
        assert_equal_to_transformers(prompt, entries)
    assert scores_of(make_driver(max_prefill_chunk_tokens=128), PROMPTS, SCORED) == small


@pytest.mark.parametrize("mode", ["swap", "recompute"])
def test_they_are_the_same_when_requests_are_parked_within_their_prompts(make_driver, mode):
    plain = scores_of(make_driver(), PROMPTS, SCORED)
    driver = make_driver(preemption_mode=mode, num_gpu_blocks_override=24, max_prefill_chunk_tokens=16)
    # Recomputing the longest prompt takes eight chunks, so parking more often than that would never let it end.
    assert scores_of(driver, PROMPTS, SCORED, between=park_every(10)) == plain
    assert driver.core.scheduler.stats().preemptions > 0


def test_a_scored_prompt_takes_nothing_from_the_prefix_cache_and_gives_nothing(make_driver):
    driver = make_driver(enable_prefix_caching=True)
    prompt = PROMPTS[0]
    for sampling in (GREEDY, SCORED, SCORED, GREEDY):
        (entries,) = scores_of(driver, [prompt], dataclasses.replace(sampling, max_tokens=2))
        if sampling is SCORED:
            assert_equal_to_transformers(prompt, entries)
            assert driver.last[max(driver.last)].num_cached_tokens == 0


def test_the_tokens_are_those_without_scores(make_driver):
    prompts = PROMPTS[:4]
    driver = make_driver()
    scores_of(driver, prompts, SCORED)
    scores_of(driver, prompts, dataclasses.replace(SCORED, prompt_logprobs=None))
    assert [driver.tokens[i] for i in range(4)] == [driver.tokens[4 + i] for i in range(4)]


def test_no_more_than_a_piece_of_the_logits_exists_at_once(make_driver, monkeypatch):
    sizes, pieces = [], Decoder.forward_in_pieces

    def watched(*args, **fields):
        for piece in pieces(*args, **fields):
            sizes.append(len(piece))
            yield piece

    monkeypatch.setattr(Decoder, "forward_in_pieces", watched)
    scores_of(make_driver(), PROMPTS, SCORED)
    assert max(sizes) == 8 and sum(sizes) >= sum(map(len, PROMPTS)) - len(PROMPTS)


def test_a_step_that_fails_is_scored_in_parts(make_driver, monkeypatch):
    plain = scores_of(make_driver(), PROMPTS, SCORED)
    pieces = Decoder.forward_in_pieces
    bad = PROMPTS[2]

    def failing(self, token_ids, *args, **fields):
        if bad[1] in token_ids.tolist() and bad[2] in token_ids.tolist():
            raise RuntimeError("injected")
        return pieces(self, token_ids, *args, **fields)

    monkeypatch.setattr(Decoder, "forward_in_pieces", failing)
    driver = make_driver()
    assert scores_of(driver, PROMPTS, SCORED) == [*plain[:2], [], *plain[3:]]
    assert driver.last[2].finish_reason is FinishReason.ERROR


def test_a_device_with_memory_of_its_own_gives_the_scores_of_the_cpu(make_driver, monkeypatch):
    plain = scores_of(make_driver(), PROMPTS, SCORED)
    use_device(FakeDevice(), monkeypatch.setattr)
    assert scores_of(make_driver(), PROMPTS, SCORED) == plain


@pytest.mark.parametrize("split", ["tensor_parallel_size", "pipeline_parallel_size"])
def test_several_ranks_give_the_scores_of_one(make_driver, split):
    prompts = PROMPTS[:3]
    plain = scores_of(make_driver(), prompts, SCORED)
    assert scores_of(make_driver(num_threads=1, **{split: 2}), prompts, SCORED) == plain


def test_the_offline_api_scores_a_prompt_without_an_output():
    with LLM(str(tiny_checkpoint("llama")), device="cpu", dtype="float32", max_model_len=256, num_threads=2,
             num_gpu_blocks_override=64, num_host_blocks_override=0) as llm:  # fmt: skip
        for n in (1, 2):
            sampling = SamplingParams(max_tokens=0, prompt_logprobs=NUM_TOP, n=n)
            for prompt, output in zip(PROMPTS, llm.generate(PROMPTS, sampling, use_tqdm=False), strict=True):
                assert output.prompt_logprobs[0] is None
                assert_equal_to_transformers(prompt, list(output.prompt_logprobs[1:]))
                assert [(o.text, o.token_ids, o.finish_reason) for o in output.outputs] == [("", (), "length")] * n
        (plain,) = llm.generate([PROMPTS[0]], SamplingParams(max_tokens=1), use_tqdm=False)
        assert plain.prompt_logprobs is None
        (refused,) = llm.generate([[VOCAB_SIZE]], SamplingParams(max_tokens=0, prompt_logprobs=0), use_tqdm=False)
        assert refused.prompt_logprobs is None and refused.outputs[0].finish_reason is FinishReason.ERROR
