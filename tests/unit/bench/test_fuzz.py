"""The fuzzer repeats a run by its seed, and sees a server that fails."""

import asyncio
import json

import psutil
import pytest

from bench.serving import fuzz
from bench.serving.hostile_wire import Attack, attack
from bench.serving.soak import Soak, Stream
from bench.serving.wire_client import perform

REPLY = "HTTP/1.1 {} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{}"
CHOICES = json.dumps({"choices": ["right"]})


def test_seed_and_number_give_the_same_bytes():
    first = [attack(3, i) for i in range(60)]
    assert first == [attack(3, i) for i in range(60)]
    assert first != [attack(4, i) for i in range(60)]


def test_attacks_are_small_enough_to_be_sent_side_by_side():
    assert max(len(attack(7, i).data) for i in range(1000)) < 10 << 20


def outcome_against(handle, monkeypatch, **options) -> fuzz.Outcome:
    """Run the fuzzer against a server of the test's own."""
    monkeypatch.setattr(fuzz, "HANG_S", 0.5)

    async def go() -> fuzz.Outcome:
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            run = fuzz._Run(url, psutil.Process(), seed=1)
            return await run.go(range(options.get("bodies", 12)))

    return asyncio.run(go())


def answering(status: int, body: str = CHOICES, *, honest: str = CHOICES):
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(65536)
        is_honest = b"python-httpx" in data
        text = honest if is_honest else body
        writer.write(REPLY.format(200 if is_honest else status, len(text), text).encode())
        await writer.drain()
        writer.close()

    return handle


def test_right_server_is_green(monkeypatch):
    outcome = outcome_against(answering(400), monkeypatch)
    assert outcome.failures == [] and outcome.honest > 0 and outcome.statuses[400] > 0


@pytest.mark.parametrize(("status", "body"), [(500, "{}"), (302, "{}"), (200, '{"error":{"code":"request_failed"}}')])
def test_server_that_fails_is_red_and_the_attack_is_named(monkeypatch, status, body):
    outcome = outcome_against(answering(status, body), monkeypatch)
    assert any("--only 0" in row for row in outcome.failures)


def test_server_that_hangs_is_red(monkeypatch):
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"python-httpx" in await reader.read(65536):
            writer.write(REPLY.format(200, len(CHOICES), CHOICES).encode())
            writer.close()
        else:
            await reader.read()  # until the client leaves
            writer.close()

    outcome = outcome_against(handle, monkeypatch)
    assert any("hung" in row for row in outcome.failures)


def test_honest_request_with_another_text_is_red(monkeypatch):
    texts = iter(["right", *["wrong"] * 20])

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(65536)
        text = json.dumps({"choices": [next(texts)]}) if b"python-httpx" in data else "{}"
        writer.write(REPLY.format(200, len(text), text).encode())
        writer.close()

    assert any("honest" in row for row in outcome_against(handle, monkeypatch).failures)


def test_attack_that_leaves_does_not_wait_for_an_answer():
    async def go() -> bool:
        async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            return (await perform(Attack("", b"GET ", ends=False), port, 60)).hung

    assert asyncio.run(go()) is False


def soaked(attacked: float, *, lag_s: float = 0.0, sizes: tuple[int, ...] = (100,) * 12, faults=()) -> Soak:
    """A soak with one stream, whose longest gap was 80 ms before the attacks."""
    stream = Stream(normal=[0.02, 0.08], attacked=[0.02, attacked], text="a", faults=list(faults))
    return Soak([stream], psutil.Process(), own_lag_s=lag_s, memory=[(float(i), s << 20) for i, s in enumerate(sizes)])


def test_soak_within_its_bounds_is_green():
    assert soaked(0.159).failures() == []
    assert soaked(0.25, lag_s=0.2).failures() == []
    assert soaked(0.1, sizes=(100, *range(200, 211))).failures() == []


@pytest.mark.parametrize(
    ("state", "what"),
    [
        (soaked(0.17), "0.170 s under attack"),
        (soaked(0.1, faults=["another text"]), "another text"),
        (soaked(0.1, sizes=tuple(range(100, 220, 10))), "memory grew"),
        (Soak([Stream()], psutil.Process(), memory=[(0.0, 1)]), "too short"),
    ],
)
def test_soak_beyond_its_bounds_is_red(state, what):
    (failure,) = state.failures()
    assert what in failure


def test_gap_that_spans_two_windows_counts_in_none():
    state = soaked(0.1)
    stream = state.streams[0]
    state.attacking, state.settled_s = True, 100.0
    state.count_gap(stream, 5.0, 102.0)
    assert len(stream.attacked) == 2
    state.count_gap(stream, 5.0, 106.0)
    assert stream.attacked[-1] == 5.0
