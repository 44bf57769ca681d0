"""The engine loop on a thread of the test, over a real socket, with a core made for the case."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from fastserve.config import EngineConfig
from fastserve.engine.channel import EngineChannel
from fastserve.engine.process import HEARTBEAT_INTERVAL_S, EngineLoop, load_core_factory
from fastserve.engine.protocol import (
    Abort,
    Error,
    ErrorKind,
    Explain,
    ExplainReply,
    GetStats,
    Heartbeat,
    Outputs,
    Shutdown,
    StatsReply,
    ToEngine,
    ToFrontend,
    decode_to_frontend,
    encode,
)
from fastserve.engine.request import EngineRequest
from fastserve.errors import InvalidArgumentError
from fastserve.types import EngineStats, FinishReason, SamplingParams
from tests.unit.engine.fake_core import SILENT, FakeEngineCore


class Frontend:
    """The other end of the socket, and the thread of the loop."""

    def __init__(self, folder: Path, core: FakeEngineCore) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.bind(f"ipc://{folder}/s")
        self._thread = threading.Thread(target=self._run, args=(f"{folder}/s", core))
        self._thread.start()

    def send(self, *messages: ToEngine) -> None:
        for message in messages:
            self._socket.send(encode(message))

    def receive(self) -> ToFrontend:
        """The next message that is no heartbeat."""
        while True:
            assert self._socket.poll(5000), "the engine loop is silent"
            message = decode_to_frontend(self._socket.recv())
            if not isinstance(message, Heartbeat):
                return message

    def wait_for_heartbeat(self) -> bool:
        assert self._socket.poll(int(HEARTBEAT_INTERVAL_S * 5000)), "no heartbeat"
        return isinstance(decode_to_frontend(self._socket.recv()), Heartbeat)

    def close(self) -> None:
        self.send(Shutdown())
        self._thread.join()
        self._context.destroy(linger=0)

    @staticmethod
    def _run(path: str, core: FakeEngineCore) -> None:
        channel = EngineChannel(path)
        EngineLoop(core, channel, os.getppid()).run()
        channel.close()


class SlowIteration(FakeEngineCore):
    """An iteration is under way, and predicted to go on, as long as `running` is set."""

    def __init__(self) -> None:
        super().__init__(EngineConfig())
        self.running = threading.Event()
        self.running.set()
        self.steps = 0

    def has_work(self) -> bool:
        return self.running.is_set() or super().has_work()

    def planning_delay_s(self) -> float:
        return 10.0 if self.running.is_set() else 0.0

    def step(self) -> list:
        self.steps += 1
        return super().step()


class Broken(FakeEngineCore):
    """Nothing but its loop works."""

    def abort(self, request_id: int) -> None:
        raise RuntimeError("abort is broken")

    def stats(self) -> EngineStats:
        raise RuntimeError("stats is broken")

    def explain(self, request_id: int) -> dict | None:
        raise RuntimeError("explain is broken")


@pytest.fixture
def slow_core() -> SlowIteration:
    return SlowIteration()


@pytest.fixture
def slow(tmp_path: Path, slow_core: SlowIteration) -> Iterator[Frontend]:
    frontend = Frontend(tmp_path, slow_core)
    yield frontend
    slow_core.running.clear()
    frontend.close()


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Frontend]:
    frontend = Frontend(tmp_path, Broken(EngineConfig()))
    yield frontend
    frontend.close()


def add(request_id: int, prompt: list[int], max_tokens: int = 1) -> EngineRequest:
    return EngineRequest.of(request_id, prompt, SamplingParams(max_tokens=max_tokens))


def test_requests_that_come_during_an_iteration_are_in_the_next_plan(slow: Frontend, slow_core: SlowIteration) -> None:
    slow.send(add(1, [3]), add(2, [4]), GetStats(7))
    reply = slow.receive()
    assert isinstance(reply, StatsReply)
    assert (reply.stats.num_running, slow_core.steps) == (2, 0)
    slow_core.running.clear()
    outputs = slow.receive()
    assert isinstance(outputs, Outputs)
    assert [output.finish_reason for output in outputs.outputs] == [FinishReason.LENGTH] * 2


def test_the_heart_beats_while_an_iteration_runs(slow: Frontend, slow_core: SlowIteration) -> None:
    slow.send(add(1, [SILENT]))
    assert [slow.wait_for_heartbeat() for _ in range(3)] == [True] * 3
    assert slow_core.steps == 0


def test_a_broken_call_is_answered_and_the_loop_goes_on(broken: Frontend) -> None:
    broken.send(GetStats(5), Explain(3, 6), Abort(4))
    assert broken.receive() == Error(ErrorKind.FAILED, "RuntimeError: stats is broken", call_id=5)
    assert broken.receive() == Error(ErrorKind.FAILED, "RuntimeError: explain is broken", request_id=3, call_id=6)
    assert broken.receive() == Error(ErrorKind.FAILED, "RuntimeError: abort is broken", request_id=4)
    broken.send(add(1, [3]))
    assert isinstance(broken.receive(), Outputs)


def test_an_unknown_request_has_no_explanation(slow: Frontend) -> None:
    slow.send(Explain(3, 6))
    assert slow.receive() == ExplainReply(6, None)


def test_the_loop_ends_without_its_parent(tmp_path: Path) -> None:
    channel = EngineChannel(f"{tmp_path}/no-listener")
    loop = EngineLoop(FakeEngineCore(EngineConfig()), channel, parent_pid=-1)
    loop.run()
    assert not loop._stopping, "no stop message came: it ended because its parent is gone"
    channel._context.destroy(linger=0)


@pytest.mark.parametrize("name", ["", "os", "os:", "os:missing", "no_such_module:f", "os:sep", "os:path.missing"])
def test_a_core_factory_must_be_a_function(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="core_factory"):
        load_core_factory(name)
