"""Engine outputs become text deltas; nothing is lost, nothing is left behind."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve.engine.output_processor import LiveRequest, OutputProcessor
from fastserve.errors import InvalidArgumentError, OverloadedError
from fastserve.logprobs import TokenLogprobs
from fastserve.tokenizer import Tokenizer
from fastserve.types import (
    CompletionDelta,
    EngineOutput,
    FinishReason,
    RequestEvent,
    RequestStats,
    SamplingParams,
    SchedulingParams,
)
from tests.unit.tokenizer import tiny

TOKENIZER = Tokenizer(tiny.byte_level(), special_tokens={"eos_token": "</s>"})
EOS = 2
STATS = RequestStats(preemptions=2)


def ids_of(text: str) -> tuple[int, ...]:
    """One token per character."""
    return tuple(TOKENIZER.encode(c, add_special_tokens=False)[0] for c in text)


@pytest.fixture
def processor() -> OutputProcessor:
    return OutputProcessor(TOKENIZER)


def add(processor: OutputProcessor, name: str = "a", prompts: str = "p", **sampling) -> LiveRequest:
    """One prompt per character."""
    return processor.add(name, [ids_of(prompt) for prompt in prompts], SamplingParams(**sampling))


def output(request: LiveRequest, text: str = "", index: int = 0, **fields) -> EngineOutput:
    return EngineOutput(request_id=request.sequences[index].request_id, token_ids=ids_of(text), **fields)


def end(request: LiveRequest, text: str = "", reason: FinishReason = FinishReason.LENGTH, **fields) -> EngineOutput:
    return output(request, text, finish_reason=reason, stats=STATS, **fields)


def only(request: LiveRequest) -> CompletionDelta:
    (delta,) = request.take()
    return delta


def test_an_output_becomes_a_delta(processor: OutputProcessor) -> None:
    request = add(processor, logprobs=0)
    logprobs = TokenLogprobs(-1.0, 1)
    processed = processor.process([output(request, "x", logprobs=(logprobs,), num_cached_tokens=4)])
    assert list(processed.updated) == [request]
    assert only(request) == CompletionDelta(
        index=0, text="x", token_ids=ids_of("x"), logprobs=(logprobs,), num_cached_tokens=4
    )
    assert request.take() == []


def test_deltas_that_were_not_taken_are_merged(processor: OutputProcessor) -> None:
    request = add(processor)
    for text in "abc":
        processor.process([output(request, text)])
    processor.process([end(request, "d")])
    delta = only(request)
    assert (delta.text, delta.token_ids) == ("abcd", ids_of("abcd"))
    assert (delta.finish_reason, delta.stats) == (FinishReason.LENGTH, STATS)
    assert request.finished


def test_completions_are_distinguished(processor: OutputProcessor) -> None:
    request = add(processor, n=2, seed=1)
    assert [s.sampling.n for s in request.sequences] == [1, 1]
    assert request.sequences[0].sampling.seed != request.sequences[1].sampling.seed
    processed = processor.process([output(request, "x", 0), output(request, "y", 1)])
    assert len(list(processed.updated)) == 1
    assert [(d.index, d.text) for d in request.take()] == [(0, "x"), (1, "y")]
    processor.process([end(request, "z")])
    assert not request.finished


def test_the_prompts_of_a_call_are_one_request(processor: OutputProcessor) -> None:
    scheduling = SchedulingParams(priority=3)
    request = processor.add("a", [ids_of("p"), ids_of("qr")], SamplingParams(n=2, seed=1), scheduling, watch=True)
    assert [list(s.prompt_token_ids) for s in request.sequences] == [[*ids_of(p)] for p in ("p", "p", "qr", "qr")]
    assert [s.sampling.seed for s in request.sequences[:2]] == [s.sampling.seed for s in request.sequences[2:]]
    assert {(s.scheduling, s.watch, s.sampling.n) for s in request.sequences} == {(scheduling, True, 1)}
    processor.process([output(request, "x", 3), output(request, "y", 1)])
    assert [(d.index, d.text) for d in request.take()] == [(3, "x"), (1, "y")]
    ids = [s.request_id for s in request.sequences]
    assert [processor.named_sequences(name)[1] for name in ("a", "a-0", "a-1", "a-2", "b", "b-0", "a-", "a-x")] == [
        ids, ids[:2], ids[2:], [], [], [], [], [],
    ]  # fmt: skip
    for index in range(4):
        assert not request.finished
        processor.process([output(request, index=index, finish_reason=FinishReason.LENGTH)])
    assert request.finished
    processor.check_integrity()


def test_a_request_with_the_name_of_another_s_prompt_goes_first(processor: OutputProcessor) -> None:
    add(processor, "a", "pq")
    named = add(processor, "a-1")
    assert processor.named_sequences("a-1")[1] == [named.sequences[0].request_id]


def test_a_stop_string_ends_the_text_and_then_the_sequence(processor: OutputProcessor) -> None:
    request = add(processor, stop=("##",), logprobs=0)
    logprobs = tuple(TokenLogprobs(-float(k), 1) for k in range(5))
    assert list(processor.process([output(request, "a#", logprobs=logprobs[:2])]).to_stop) == []
    processed = processor.process([output(request, "#bc", logprobs=logprobs[2:])])
    assert list(processed.to_stop) == [(request.sequences[0].request_id, 3)], "bc is not part of the answer"
    first = only(request)
    assert (first.text, first.token_ids, first.finish_reason) == ("a", ids_of("a##"), None)
    assert first.logprobs == logprobs[:3]
    assert processor.process([output(request, "late")]).to_stop == []
    processor.process([end(request, reason=FinishReason.ABORT)])
    assert only(request) == CompletionDelta(index=0, finish_reason=FinishReason.STOP, stop_reason="##", stats=STATS)


@pytest.mark.parametrize("reason", [FinishReason.LENGTH, FinishReason.ERROR])
def test_a_stop_string_counts_however_the_engine_ended(processor: OutputProcessor, reason: FinishReason) -> None:
    request = add(processor, stop=("#",))
    assert processor.process([end(request, "a#", reason, error="late")]).to_stop == []
    delta = only(request)
    assert (delta.text, delta.finish_reason, delta.stop_reason) == ("a", FinishReason.STOP, "#")
    assert delta.error is None


def test_text_held_back_for_a_stop_string_comes_with_the_last_delta(processor: OutputProcessor) -> None:
    request = add(processor, stop=("##",))
    processor.process([output(request, "a#")])
    assert only(request).text == "a"
    processor.process([end(request)])
    assert only(request).text == "#"


def test_stop_strings_wait_for_min_tokens(processor: OutputProcessor) -> None:
    request = add(processor, stop=("#",), min_tokens=3)
    assert processor.process([output(request, "#a")]).to_stop == []
    assert processor.process([output(request, "#")]).to_stop == [(request.sequences[0].request_id, 3)]
    assert only(request).text == "#a"


@pytest.mark.parametrize(
    ("stop_token_ids", "token", "stop_reason"), [((), EOS, None), ((EOS,), EOS, EOS), ((70,), 70, 70)]
)
def test_a_stop_token_is_reported_unless_it_is_the_end_of_sequence(
    processor: OutputProcessor, stop_token_ids: tuple, token: int, stop_reason: int | None
) -> None:
    request = add(processor, stop_token_ids=stop_token_ids)
    last = EngineOutput(
        request_id=request.sequences[0].request_id,
        token_ids=(*ids_of("a"), token),
        finish_reason=FinishReason.STOP,
        stop_token_id=token,
    )
    processor.process([last])
    delta = only(request)
    assert (delta.text, delta.token_ids, delta.stop_reason) == ("a", (*ids_of("a"), token), stop_reason)


def test_a_stop_string_may_be_kept_in_the_text(processor: OutputProcessor) -> None:
    request = add(processor, stop=("##",), include_stop_str_in_output=True)
    processor.process([output(request, "a#")])
    assert processor.process([output(request, "#b")]).to_stop == [(request.sequences[0].request_id, 3)]
    processor.process([end(request, reason=FinishReason.ABORT)])
    delta = only(request)
    assert (delta.text, delta.token_ids, delta.stop_reason) == ("a##", ids_of("a##"), "##")


@pytest.mark.parametrize(
    ("skip", "keep", "text"),
    [(True, False, "a"), (True, True, "a"), (False, False, "a</s>"), (False, True, "a</s></s>")],
)
def test_special_tokens_are_shown_when_they_are_not_skipped(
    processor: OutputProcessor, skip: bool, keep: bool, text: str
) -> None:
    request = add(processor, skip_special_tokens=skip, include_stop_str_in_output=keep)
    tokens = (*ids_of("a"), EOS, EOS)
    last = EngineOutput(
        request_id=request.sequences[0].request_id,
        token_ids=tokens,
        finish_reason=FinishReason.STOP,
        stop_token_id=EOS,
    )
    processor.process([last])
    assert only(request).text == text


def test_an_error_of_the_engine_reaches_the_delta(processor: OutputProcessor) -> None:
    request = add(processor)
    processor.process([end(request, reason=FinishReason.ERROR, error="no memory")])
    delta = only(request)
    assert (delta.finish_reason, delta.error) == (FinishReason.ERROR, "no memory")


@pytest.mark.parametrize("last", [False, True], ids=["goes on", "ends"])
def test_an_error_in_the_text_of_one_completion_ends_it_alone(
    processor: OutputProcessor, monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    neighbours = [add(processor, str(i)) for i in range(8)]
    bad = add(processor, "bad", n=2)
    detokenizer = bad.completions[0]._detokenizer
    push = type(detokenizer).push

    def broken(self: object, *arguments: object, **settings: object) -> object:
        if self is detokenizer:
            raise RuntimeError("injected")
        return push(self, *arguments, **settings)

    monkeypatch.setattr(type(detokenizer), "push", broken)
    first = (end if last else output)(bad, "x")
    processed = processor.process(
        [
            *(output(n, "a") for n in neighbours[:4]),
            first,
            output(bad, "y", 1),
            *(output(n, "b") for n in neighbours[4:]),
        ]
    )
    assert list(processed.to_abort) == ([] if last else [bad.sequences[0].request_id])
    assert [only(n).text for n in neighbours] == ["a"] * 4 + ["b"] * 4
    if not last:
        assert processor.process([output(bad, "late")]).to_abort == []
        processor.process([end(bad, reason=FinishReason.ABORT)])
    failed, healthy = bad.take()
    assert (failed.finish_reason, failed.text) == (FinishReason.ERROR, "")
    assert failed.error == "the text could not be made: RuntimeError: injected"
    assert (healthy.text, healthy.finish_reason) == ("y", None)
    processor.check_integrity()


def test_two_live_requests_cannot_share_an_id(processor: OutputProcessor) -> None:
    request = add(processor)
    with pytest.raises(InvalidArgumentError, match="unique"):
        add(processor)
    processor.remove(request)
    add(processor)
    processor.check_integrity()


def test_removing_a_request_names_the_sequences_to_end(processor: OutputProcessor) -> None:
    request = add(processor, n=3)
    processor.process([end(request)])
    assert processor.remove(request) == [s.request_id for s in request.sequences[1:]]
    assert processor.process([output(request, "late", 1)]).to_stop == []
    assert len(processor) == 0
    processor.check_integrity()


def test_a_refused_sequence_fails_its_request_once(processor: OutputProcessor) -> None:
    request = add(processor, n=2)
    for sequence in request.sequences:
        processor.fail_sequence(sequence.request_id, OverloadedError(f"full {sequence.request_id}"))
    assert str(request.failure) == f"full {request.sequences[0].request_id}"
    processor.fail_sequence(10**9, OverloadedError("unknown ids are ignored"))


def test_requests_that_have_ended_do_not_fail_with_the_engine(processor: OutputProcessor) -> None:
    done, running = add(processor, "done"), add(processor, "running")
    processor.process([end(done)])
    processor.fail_all(OverloadedError("gone"))
    assert (done.failure is None, running.failure is None) == (True, False)


def test_of_the_events_of_a_completion_the_newest_is_kept(processor: OutputProcessor) -> None:
    wakes: list[int] = []
    request = processor.add("a", [ids_of("p")], SamplingParams(n=2), watch=True, wake=lambda: wakes.append(1))
    first, second = (sequence.request_id for sequence in request.sequences)
    for sequence_id, level in ((first, 1), (second, 2), (first, 3), (10**9, 4)):
        processor.note(sequence_id, {"level": level})
    assert request.take_events() == [RequestEvent(0, {"level": 3}), RequestEvent(1, {"level": 2})]
    assert (request.take_events(), request.take(), len(wakes)) == ([], [], 3)


@given(data=st.data(), n=st.integers(1, 3), stop=st.sampled_from([(), ("#",), ("ab", "ba#")]))
def test_whenever_the_consumer_looks_it_gets_everything_once(data: st.DataObject, n: int, stop: tuple) -> None:
    processor = OutputProcessor(TOKENIZER)
    request = add(processor, n=n, stop=stop, logprobs=0)
    texts = [data.draw(st.text("ab#", min_size=1, max_size=12)) for _ in range(n)]
    queues = [list(text) for text in texts]
    got = [CompletionDelta(index=i) for i in range(n)]
    parts = ["" for _ in range(n)]
    tokens: list[list[int]] = [[] for _ in range(n)]
    while not request.finished or any(c.has_update for c in request.completions):
        if data.draw(st.booleans()) or request.finished:
            for delta in request.take():
                parts[delta.index] += delta.text
                tokens[delta.index] += delta.token_ids
                assert len(delta.logprobs) == len(delta.token_ids)
                got[delta.index] = delta
            continue
        index = data.draw(st.sampled_from([i for i in range(n) if queues[i]]))
        character = queues[index].pop(0)
        last = not queues[index]
        logprobs = (TokenLogprobs(-1.0, 1),)
        reason = FinishReason.LENGTH if last else None
        processor.process([output(request, character, index, logprobs=logprobs, finish_reason=reason)])
        processor.check_integrity()
    for i, text in enumerate(texts):
        cuts = [text.find(s) + len(s) for s in stop if s in text]
        used = text[: min(cuts)] if cuts else text
        ended = next((s for s in stop if cuts and used.endswith(s)), None)
        assert tokens[i] == list(ids_of(used))
        assert parts[i] == (used.removesuffix(ended) if ended else used)
        assert got[i].finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)
        assert got[i].stop_reason == ended
    processor.remove(request)
    processor.check_integrity()
