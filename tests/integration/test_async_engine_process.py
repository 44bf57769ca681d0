"""AsyncEngine with a real process and socket and a fake core: streams, aborts, failures, shutdown."""

import asyncio
import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from fastserve.config import EngineConfig, ModelConfig, SchedulerConfig
from fastserve.engine.async_engine import AsyncEngine
from fastserve.engine.process import HEARTBEAT_INTERVAL_S
from fastserve.errors import CheckpointError, EngineDeadError, InvalidArgumentError, OverloadedError, RequestFailedError
from fastserve.types import CompletionDelta, FinishReason, RequestEvent, SamplingParams, SchedulingParams
from tests.unit.engine import fake_core
from tests.unit.tokenizer import tiny

FAKE = "tests.unit.engine.fake_core"
SEEN_WITHIN_S = 2.0
LONG = SamplingParams(max_tokens=4000, ignore_eos=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("tokenizer"))


async def start(folder: Path, factory: str = "make", **scheduler) -> AsyncEngine:
    config = EngineConfig(model=ModelConfig(model=str(folder)), scheduler=SchedulerConfig(**scheduler))
    return await AsyncEngine.start(config, core_factory=f"{FAKE}:{factory}")


@pytest.fixture
async def engine(folder: Path) -> AsyncIterator[AsyncEngine]:
    engine = await start(folder)
    yield engine
    await engine._client.close(grace_s=1.0)


@pytest.fixture
async def paced(folder: Path) -> AsyncIterator[AsyncEngine]:
    engine = await start(folder, "make_paced")
    yield engine
    await engine._client.close(grace_s=1.0)


async def collect(stream: AsyncIterator[CompletionDelta]) -> list[CompletionDelta]:
    return [delta async for delta in stream]


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait for something that another process does."""
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "not within the time limit"
        await asyncio.sleep(0.005)


async def engine_is_empty(engine: AsyncEngine) -> None:
    """Wait until the core holds no request; the frontend must hold none either."""
    deadline_s = time.monotonic() + 10
    while (await engine.stats()).num_running:
        assert time.monotonic() < deadline_s, "requests are left in the engine"
    engine._requests.check_integrity()
    assert len(engine._requests) == 0


async def test_a_request_streams_its_tokens(engine: AsyncEngine) -> None:
    prompt = [10, 20, 30]
    deltas = await collect(engine.generate([prompt], SamplingParams(max_tokens=50, logprobs=1), request_id="a"))
    tokens = tuple(token for delta in deltas for token in delta.token_ids)
    assert tokens == fake_core.tokens_of(prompt, 50)
    assert "".join(delta.text for delta in deltas) == engine.tokenizer.decode(tokens)
    assert sum(len(delta.logprobs) for delta in deltas) == 50
    assert deltas[-1].finish_reason is FinishReason.LENGTH
    assert deltas[-1].stats.preemptions == 3
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    await engine_is_empty(engine)


async def test_completions_come_interleaved_and_whole(paced: AsyncEngine) -> None:
    deltas = await collect(paced.generate([[5, 6]], SamplingParams(max_tokens=20, n=4, seed=1), request_id="a"))
    for index in range(4):
        mine = [delta for delta in deltas if delta.index == index]
        assert sum((delta.token_ids for delta in mine), ()) == fake_core.tokens_of([5, 6], 20)
        assert [delta.finish_reason for delta in mine if delta.finish_reason] == [FinishReason.LENGTH]
    assert [delta.index for delta in deltas[:8]] != sorted(delta.index for delta in deltas[:8])


async def test_the_prompts_of_a_call_come_as_one_stream(paced: AsyncEngine) -> None:
    prompts = [[5, 6], [7], [8, 9, 10]]
    stream = paced.generate(prompts, SamplingParams(max_tokens=20, n=2, seed=1), request_id="a")
    async with aclosing(stream):
        deltas = [await anext(stream)]
        facts = [await paced.explain(name) for name in ("a", "a-2", "a-3")]
        deltas += await collect(stream)
    assert [answer and len(answer["completions"]) for answer in facts] == [6, 2, None]
    for index in range(6):
        mine = [delta for delta in deltas if delta.index == index]
        assert sum((delta.token_ids for delta in mine), ()) == fake_core.tokens_of(prompts[index // 2], 20)
        assert [delta.finish_reason for delta in mine if delta.finish_reason] == [FinishReason.LENGTH]
    await engine_is_empty(paced)


async def test_a_prompt_that_the_core_refuses_fails_its_call(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidArgumentError, match="refused by the fake"):
        await collect(engine.generate([[3], [fake_core.REFUSE], [4]], LONG, request_id="a"))
    await engine_is_empty(engine)


async def test_scheduling_parameters_reach_the_core(engine: AsyncEngine) -> None:
    stream = engine.generate([[7]], LONG, SchedulingParams(deadline_s=1.0, priority=-2), request_id="a")
    async with aclosing(stream):
        await anext(stream)
        (sequence,) = engine._requests.get("a").sequences
        assert (sequence.scheduling.deadline_s, sequence.scheduling.priority) == (1.0, -2)


async def test_many_requests_run_at_once(engine: AsyncEngine) -> None:
    prompts = [[i, i + 1] for i in range(3, 203)]
    streams = [engine.generate([p], SamplingParams(max_tokens=30), request_id=str(p)) for p in prompts]
    results = await asyncio.gather(*map(collect, streams))
    for prompt, deltas in zip(prompts, results, strict=True):
        assert sum((delta.token_ids for delta in deltas), ()) == fake_core.tokens_of(prompt, 30)
    await engine_is_empty(engine)


async def test_a_slow_consumer_gets_few_merged_deltas(engine: AsyncEngine) -> None:
    stream = engine.generate([[7]], SamplingParams(max_tokens=2000, n=2), request_id="slow")
    async with aclosing(stream):
        deltas = [await anext(stream)]
        await until(lambda: engine._requests.get("slow").finished)
        deltas += await collect(stream)
    assert len(deltas) <= 5
    assert sum(len(delta.token_ids) for delta in deltas) == 4000


async def test_the_end_of_sequence_token_has_no_text(engine: AsyncEngine) -> None:
    deltas = await collect(engine.generate([[fake_core.END, 300]], SamplingParams(max_tokens=9), request_id="a"))
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert deltas[-1].stop_reason is None
    assert sum((delta.token_ids for delta in deltas), ())[-1] == fake_core.EOS
    assert "</s>" not in "".join(delta.text for delta in deltas)


async def test_a_stop_string_ends_the_request_in_the_engine_too(engine: AsyncEngine) -> None:
    fox = engine.tokenizer.encode("ab#", add_special_tokens=False)
    deltas = await collect(
        engine.generate([[token - 1 for token in fox]], SamplingParams(max_tokens=4000, stop=("#",)), request_id="a")
    )
    assert "".join(delta.text for delta in deltas) == "ab"
    assert (deltas[-1].finish_reason, deltas[-1].stop_reason) == (FinishReason.STOP, "#")
    assert deltas[-1].stats is not None
    await engine_is_empty(engine)


@pytest.mark.parametrize("prompt", [[], [fake_core.VOCAB_SIZE], [-1], [1] * fake_core.MAX_MODEL_LEN, ["x"]])
async def test_a_bad_prompt_is_refused_at_once(engine: AsyncEngine, prompt: list) -> None:
    with pytest.raises(InvalidArgumentError):
        engine.generate([prompt], LONG, request_id="a")
    assert (await engine.stats()).iterations == 0


async def test_a_request_id_in_use_is_refused(engine: AsyncEngine) -> None:
    first = engine.generate([[fake_core.SILENT]], LONG, request_id="a")
    waiting = asyncio.create_task(anext(first))
    await until(lambda: engine._requests.get("a") is not None)
    with pytest.raises(InvalidArgumentError, match="unique"):
        await anext(engine.generate([[3]], LONG, request_id="a"))
    waiting.cancel()
    await asyncio.wait([waiting])
    await engine_is_empty(engine)


@pytest.mark.parametrize(
    ("token", "error"),
    [
        (fake_core.REFUSE, InvalidArgumentError),
        (fake_core.OVERLOAD, OverloadedError),
        (fake_core.BUG, RequestFailedError),
    ],
)
async def test_a_refusal_of_the_core_hurts_that_request_alone(
    engine: AsyncEngine, token: int, error: type[Exception]
) -> None:
    good = asyncio.create_task(collect(engine.generate([[3, 4]], SamplingParams(max_tokens=100), request_id="good")))
    with pytest.raises(error):
        await collect(engine.generate([[token]], SamplingParams(n=3), request_id="bad"))
    assert (await good)[-1].finish_reason is FinishReason.LENGTH
    assert engine.is_alive
    await engine_is_empty(engine)


async def test_a_failure_inside_the_engine_is_the_requests_last_delta(engine: AsyncEngine) -> None:
    deltas = await collect(engine.generate([[fake_core.FAIL]], LONG, request_id="a"))
    assert (deltas[-1].finish_reason, deltas[-1].error) == (FinishReason.ERROR, "failed by the fake")
    assert sum(len(delta.token_ids) for delta in deltas) == 1


async def test_abort_gives_a_last_delta(paced: AsyncEngine) -> None:
    stream = paced.generate([[9]], SamplingParams(max_tokens=4000, n=2), request_id="a")
    await anext(stream)
    assert await paced.abort("a")
    deltas = await collect(stream)
    assert sorted(delta.index for delta in deltas if delta.finish_reason is FinishReason.ABORT) == [0, 1]
    assert not await paced.abort("a")
    assert not await paced.abort("unknown")
    await engine_is_empty(paced)


@pytest.mark.parametrize("prompt", [[fake_core.SILENT], [9]], ids=["before the first token", "while running"])
async def test_cancelling_the_consumer_ends_the_request(paced: AsyncEngine, prompt: list[int]) -> None:
    task = asyncio.create_task(collect(paced.generate([prompt], LONG, request_id="a")))
    await until(lambda: paced._requests.get("a") is not None)
    await paced.stats()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine_is_empty(paced)


async def test_closing_the_iterator_ends_the_request_at_any_time(paced: AsyncEngine) -> None:
    unstarted = paced.generate([[9]], LONG, request_id="unstarted")
    await unstarted.aclose()
    started = paced.generate([[9]], SamplingParams(max_tokens=4000, n=2), request_id="started")
    await anext(started)
    await started.aclose()
    ended = paced.generate([[9]], SamplingParams(max_tokens=3), request_id="ended")
    await anext(ended)
    await until(lambda: paced._requests.get("ended").finished)
    await ended.aclose()
    await engine_is_empty(paced)


async def test_an_iterator_that_is_dropped_ends_the_request(paced: AsyncEngine) -> None:
    async for _ in paced.generate([[9]], LONG, request_id="a"):
        break
    await engine_is_empty(paced)


async def test_a_thousand_requests_with_random_cancels_leave_nothing(engine: AsyncEngine) -> None:
    rng = random.Random(0)
    kinds = [[9, 8], [9, 8, 7], [fake_core.SILENT], [fake_core.FAIL], [fake_core.END], [fake_core.REFUSE]]

    async def one(i: int) -> None:
        sampling = SamplingParams(max_tokens=rng.randint(1, 40), n=rng.randint(1, 3), stop=rng.choice([(), ("a",)]))
        prompts = rng.choices(kinds, k=rng.randint(1, 3))
        stream = engine.generate(prompts, sampling, request_id=str(i))
        try:
            async with asyncio.timeout(rng.choice([0.0, 0.01, 0.2])), aclosing(stream):
                async for _ in stream:
                    match rng.randrange(20):
                        case 0:
                            return
                        case 1:
                            await engine.abort(str(i))
                        case 2:
                            await engine.explain(str(i))
        except (TimeoutError, InvalidArgumentError):
            return

    for _ in range(10):
        await asyncio.gather(*(one(i) for i in range(100)))
    await engine_is_empty(engine)
    assert not engine._client._calls
    assert (await collect(engine.generate([[3]], SamplingParams(max_tokens=2), request_id="z")))[-1].finish_reason


async def test_stats_and_explain_answer_while_the_engine_is_busy(paced: AsyncEngine) -> None:
    stream = paced.generate([[9]], SamplingParams(max_tokens=4000), request_id="a")
    both = paced.generate([[9]], SamplingParams(max_tokens=4000, n=2), request_id="b")
    await anext(stream)
    await anext(both)
    assert (await paced.stats()).num_running == 3
    facts = await paced.explain("a")
    assert facts["state"] in {"running", "parked"}
    assert facts["pair"] == [1, 2.5]
    assert len((await paced.explain("b"))["completions"]) == 2
    assert await paced.explain("unknown") is None
    await stream.aclose()
    await both.aclose()


async def test_events_tell_of_changes_in_the_scheduler(paced: AsyncEngine) -> None:
    events: list[RequestEvent] = []
    stream = paced.generate([[9]], SamplingParams(max_tokens=4000), request_id="a", watch=True)
    async with aclosing(stream):
        async for item in stream:
            if isinstance(item, RequestEvent):
                events.append(item)
            if len({event.facts["state"] for event in events}) == 2:
                break
    assert {event.index for event in events} == {0}


async def test_the_heartbeat_goes_on_when_idle(engine: AsyncEngine) -> None:
    before_s = time.monotonic()
    await until(lambda: time.monotonic() - before_s > 2 * HEARTBEAT_INTERVAL_S)
    assert engine.heartbeat_age_s() < 2 * HEARTBEAT_INTERVAL_S
    assert engine.is_alive


async def test_a_hanging_engine_shows_in_the_heartbeat_and_can_be_closed(engine: AsyncEngine) -> None:
    stream = asyncio.create_task(collect(engine.generate([[fake_core.HANG]], LONG, request_id="a")))
    await until(lambda: engine.heartbeat_age_s() > 2 * HEARTBEAT_INTERVAL_S)
    assert engine.is_alive
    process = psutil.Process(engine.pid)
    await engine._client.close(grace_s=0.05)
    with pytest.raises(EngineDeadError, match="closed"):
        await stream
    assert not process.is_running()


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (fake_core.CRASH, "the fake crashed"),
        (fake_core.EXIT, "status 7"),
        (fake_core.KILL, "status -9"),
    ],
)
async def test_every_open_request_learns_of_the_engines_death(paced: AsyncEngine, token: int, reason: str) -> None:
    engine = paced
    streams = [asyncio.create_task(collect(engine.generate([[9, i]], LONG, request_id=str(i)))) for i in range(20)]
    await until(lambda: engine._requests.get("19") is not None)
    calls = [asyncio.create_task(engine.generate([[token]], LONG, request_id="bad").__anext__())]
    started_s = time.monotonic()
    results = await asyncio.gather(*streams, *calls, return_exceptions=True)
    assert time.monotonic() - started_s < SEEN_WITHIN_S
    assert [r for r in results if not (isinstance(r, EngineDeadError) and reason in str(r))] == []
    assert not engine.is_alive
    with pytest.raises(EngineDeadError, match=reason):
        engine.generate([[3]], LONG, request_id="late")
    with pytest.raises(EngineDeadError, match=reason):
        await engine.stats()
    assert len(engine._requests) == 0


async def test_kill_dash_nine_under_load_is_seen_in_time(paced: AsyncEngine) -> None:
    engine = paced
    streams = [engine.generate([[9, i]], LONG, request_id=str(i)) for i in range(50)]
    for stream in streams:
        await anext(stream)
    waiting = [asyncio.create_task(collect(stream)) for stream in streams]
    calls = [asyncio.create_task(engine.stats()) for _ in range(3)]
    started_s = time.monotonic()
    os.kill(engine.pid, signal.SIGKILL)
    results = await asyncio.gather(*waiting, *calls, return_exceptions=True)
    assert time.monotonic() - started_s < SEEN_WITHIN_S
    assert all(isinstance(result, EngineDeadError) for result in results[:50])


async def test_a_message_that_does_not_decode_hurts_no_request(paced: AsyncEngine) -> None:
    stream = asyncio.create_task(collect(paced.generate([[9]], SamplingParams(max_tokens=100), request_id="a")))
    for raw in (b"", b"garbage", b"\x93\xa3Add\x01", os.urandom(5000)):
        paced._client._channel._socket.send(raw)
    assert (await stream)[-1].finish_reason is FinishReason.LENGTH
    assert paced.is_alive


async def test_a_bad_message_about_a_request_fails_that_request(paced: AsyncEngine) -> None:
    stream = asyncio.create_task(collect(paced.generate([[fake_core.SILENT]], LONG, request_id="a")))
    await until(lambda: paced._requests.get("a") is not None)
    sequence_id = paced._requests.get("a").sequences[0].request_id
    paced._client._channel._socket.send(b"\x93\xa5Abort" + bytes([sequence_id]) + b"\x01")
    with pytest.raises(InvalidArgumentError, match="does not decode"):
        await stream
    await engine_is_empty(paced)


async def test_an_engine_that_sends_garbage_is_ended(engine: AsyncEngine) -> None:
    engine._client._on_message(b"garbage")
    with pytest.raises(EngineDeadError, match="something else than a message"):
        await engine.stats()
    assert not engine.is_alive


async def test_progress_is_reported_while_loading(folder: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    config = EngineConfig(model=ModelConfig(model=str(folder)))
    engine = await AsyncEngine.start(
        config, core_factory=f"{FAKE}:make", progress=lambda stage, done, total: seen.append((stage, done, total))
    )
    await engine.close()
    assert seen == [("weights", 1, 2), ("weights", 2, 2)]


@pytest.mark.parametrize(
    ("factory", "error", "reason"),
    [
        ("make_broken", InvalidArgumentError, "does not like its configuration"),
        ("make_buggy", EngineDeadError, "a bug at start"),
        ("make_exiting", EngineDeadError, "status 5"),
        ("make_missing", InvalidArgumentError, "module:function"),
    ],
)
async def test_an_engine_that_does_not_start_says_why(
    folder: Path, factory: str, error: type[Exception], reason: str
) -> None:
    children = set(psutil.Process().children())
    with pytest.raises(error, match=reason):
        await start(folder, factory)
    assert set(psutil.Process().children()) <= children


async def test_a_model_or_tokenizer_that_is_missing_starts_no_engine(tmp_path: Path) -> None:
    children = set(psutil.Process().children())
    with pytest.raises(CheckpointError, match="model must be a folder or a hub id"):
        await start(tmp_path / "missing", "make_stuck")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidArgumentError, match="tokenizer"):
        await start(tmp_path, "make_stuck")
    assert set(psutil.Process().children()) <= children


async def test_a_start_can_be_cancelled(folder: Path) -> None:
    children = set(psutil.Process().children())
    task = asyncio.create_task(start(folder, "make_stuck"))
    await until(lambda: len(set(psutil.Process().children()) - children) == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert set(psutil.Process().children()) <= children


async def test_drain_refuses_new_requests_and_waits_for_the_old(paced: AsyncEngine) -> None:
    stream = asyncio.create_task(collect(paced.generate([[9]], SamplingParams(max_tokens=50), request_id="a")))
    await until(lambda: paced._requests.get("a") is not None)
    draining = asyncio.create_task(paced.drain())
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="draining"):
        paced.generate([[9]], LONG, request_id="b")
    assert not draining.done()
    await draining
    assert (await stream)[-1].finish_reason is FinishReason.LENGTH


async def test_close_fails_what_runs_and_may_be_repeated(paced: AsyncEngine) -> None:
    engine = paced
    stream = engine.generate([[9]], LONG, request_id="a")
    await anext(stream)
    await asyncio.gather(engine.close(), engine.close())
    with pytest.raises(EngineDeadError, match="closed"):
        await collect(stream)
    with pytest.raises(EngineDeadError, match="closed"):
        await engine.stats()
    assert not engine.is_alive


async def test_the_socket_is_private_and_removed(engine: AsyncEngine) -> None:
    path = Path(engine._client._channel.path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not [c for c in psutil.Process(engine.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
    await engine.close()
    assert not path.parent.exists()


async def test_signals_for_the_whole_group_do_not_end_the_engine(engine: AsyncEngine) -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        os.kill(engine.pid, signum)
    assert (await collect(engine.generate([[3]], SamplingParams(max_tokens=2), request_id="a")))[-1].finish_reason


@pytest.mark.parametrize("token", [3, fake_core.HANG], ids=["idle", "hanging"])
def test_the_engine_dies_with_its_parent(folder: Path, token: int) -> None:
    program = f"""
import asyncio, time
from fastserve.config import EngineConfig, ModelConfig
from fastserve.engine.async_engine import AsyncEngine
from fastserve.types import SamplingParams

async def main():
    engine = await AsyncEngine.start(
        EngineConfig(model=ModelConfig(model={str(folder)!r})), core_factory="{FAKE}:make"
    )
    request = asyncio.ensure_future(anext(engine.generate([[{token}]], SamplingParams(), request_id="a")))
    await asyncio.sleep(0.1)
    print(engine.pid, flush=True)
    time.sleep(60)

asyncio.run(main())
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as parent:
        engine = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        gone, _ = psutil.wait_procs([engine], timeout=SEEN_WITHIN_S)
    # An orphan may stay a zombie where init does not reap.
    assert gone or engine.status() == psutil.STATUS_ZOMBIE
