"""A rank that fails ends the engine with its name and the cause, and nothing stays behind."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastserve._C.sched import LatencyModel
from fastserve.engine.async_engine import AsyncEngine
from fastserve.engine.core import EngineCore
from fastserve.errors import CheckpointError, DeviceLostError, EngineDeadError, FastServeError, InvalidArgumentError
from fastserve.executor.launcher import Launcher
from fastserve.executor.mp import MpExecutor
from fastserve.types import SamplingParams
from tests.checkpoints import tiny_checkpoint
from tests.integration.engine_driver import Driver, engine_config, random_prompts
from tests.ranks import core_on_ranks, descriptors, is_alive, shared_launcher

PROMPTS = random_prompts(4)
TWO = {"tensor_parallel_size": 2, "num_threads": 1}
MOST_S = 60.0


def shared_memory() -> list[str]:
    """The memory between ranks, which has no name anywhere, by the processes of this test run that hold it."""
    found = []
    for pid in (os.getpid(), *children(os.getpid())):
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):  # it ended or was closed meanwhile
                if "memfd:fastserve" in os.readlink(descriptor):
                    found.append(f"{pid}: {os.readlink(descriptor)}")
    return sorted(found)


def children(pid: int) -> list[int]:
    """Process ids of a process's children, and of theirs."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *children(child)]
    return found


def wait_until_gone(*pids: int) -> None:
    """Processes that were killed take a moment to end."""
    deadline_s = time.monotonic() + MOST_S
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline_s, pids
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def nothing_stays_behind():
    shared_launcher()
    before = descriptors(), shared_memory()
    yield
    assert (descriptors(), shared_memory()) == before


@pytest.mark.parametrize(
    ("worker", "cause"),
    [
        ("ThrowingWorker", "failed: ValueError: an injected fault"),
        ("ThrowingInForward", "failed: MemoryError: no room within a layer"),
        ("DyingWorker", "was killed by SIGKILL"),
        ("StoppedWorker", "gave no sign of life"),
        ("OtherTokens", "has other tokens than rank 0 after step 5"),
        ("OneBadEntry", "ranks disagree|could not be started|has other tokens"),
    ],
)
def test_the_first_fault_of_a_rank_ends_all_with_its_name_and_cause(worker: str, cause: str) -> None:
    with core_on_ranks(engine_config(**TWO), f"tests.ranks:{worker}") as core:
        pids = core.executor.pids
        driver = Driver(core)
        for i, prompt in enumerate(PROMPTS):
            driver.add(i, prompt)
        with pytest.raises(DeviceLostError, match=cause) as raised:
            driver.run()
        assert worker == "OneBadEntry" or f"rank 1 (process {pids[1]})" in str(raised.value)
        with pytest.raises(DeviceLostError, match=cause):
            core.has_work()
    wait_until_gone(*pids)


def test_a_rank_that_dies_while_nothing_is_to_do_is_noticed() -> None:
    with core_on_ranks(engine_config(**TWO)) as core:
        pids = core.executor.pids
        os.kill(pids[0], signal.SIGKILL)
        deadline_s = time.monotonic() + MOST_S
        with pytest.raises(DeviceLostError, match=rf"rank 0 \(process {pids[0]}\) was killed by SIGKILL"):
            while not core.has_work():
                assert time.monotonic() < deadline_s
                time.sleep(0.01)
        with pytest.raises(DeviceLostError, match="was killed by SIGKILL"):
            core.executor.time_iteration(prefill_tokens=1, prefill_ctx=0, num_decodes=0, decode_ctx=0)
    wait_until_gone(*pids)


def test_a_nursery_that_is_stopped_does_not_keep_an_engine_from_closing() -> None:
    launcher = Launcher()
    executor = MpExecutor(engine_config(**TWO), launcher=launcher, worker_factory="fastserve.worker.worker:Worker")
    pids = executor.pids
    os.kill(launcher.pid, signal.SIGSTOP)
    executor.stop()
    wait_until_gone(*pids)
    launcher.stop()


def test_an_engine_that_is_closed_leaves_nothing() -> None:
    with core_on_ranks(engine_config(**TWO)) as core:
        pids = core.executor.pids
        driver = Driver(core)
        driver.add(0, PROMPTS[0])
        driver.step()
    wait_until_gone(*pids)
    core.close()  # may be called again


@pytest.mark.parametrize(
    ("changes", "worker", "error", "message"),
    [
        ({}, "NoStart", DeviceLostError, r"rank 1 \(process \d+\) did not start: RuntimeError: no luck today"),
        (
            {"distributed_timeout_s": 3.0},
            "EndlessStart",
            DeviceLostError,
            r"ranks did not start within 3 s \(--distributed-timeout-seconds\); last state of .*rank 1 \(process \d+\): starting",
        ),
        ({"tensor_parallel_size": 3}, "Worker", InvalidArgumentError, "does not divide the 4 attention heads"),
        ({"tensor_parallel_size": 8}, "Worker", InvalidArgumentError, "does not divide the 4 attention heads"),
        ({"model": "/nowhere/at-all"}, "Worker", CheckpointError, "/nowhere/at-all"),
    ],
)
def test_a_start_that_fails_says_why(changes, worker: str, error: type[FastServeError], message: str) -> None:
    with pytest.raises(error, match=message):
        MpExecutor(engine_config(**(TWO | changes)), launcher=shared_launcher(), worker_factory=f"tests.ranks:{worker}")


FORKING = """
import os, signal
from fastserve.executor.launcher import Launcher

launcher = Launcher()
child = os.fork()
if child == 0:
    signal.pause()
print(launcher.pid, child, flush=True)
signal.pause()
"""


def test_the_nursery_ends_with_a_script_though_a_child_of_the_script_has_a_copy_of_its_socket() -> None:
    script = subprocess.Popen([sys.executable, "-c", FORKING], stdout=subprocess.PIPE, text=True)
    assert script.stdout is not None
    with script.stdout:
        nursery, child = map(int, script.stdout.readline().split())
    script.kill()
    script.wait()
    try:
        wait_until_gone(nursery)
        assert is_alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_memory_between_ranks_is_seen_while_it_is_there() -> None:
    with core_on_ranks(engine_config(**TWO)) as core:
        holders = {line.split(":")[0] for line in shared_memory()}
        assert holders == {str(pid) for pid in (os.getpid(), *core.executor.pids)}


def engine_on_two_ranks() -> "asyncio.Future[AsyncEngine]":
    return AsyncEngine.start(engine_config(model=str(tiny_checkpoint("llama")), **TWO))


@pytest.mark.parametrize("victim", ["rank", "nursery", "engine"])
def test_every_client_gets_the_cause_and_no_process_stays_behind(victim: str) -> None:
    async def run() -> None:
        engine = await engine_on_two_ranks()
        try:
            family = children(engine.pid)
            assert len(family) == 3
            nursery, _, rank = family
            endless = SamplingParams(max_tokens=200, ignore_eos=True)

            async def client(name: int) -> None:
                async for _ in engine.generate([[5, 6, 7]], endless, request_id=str(name)):
                    started.set()

            started = asyncio.Event()
            clients = [asyncio.ensure_future(client(name)) for name in range(3)]
            await asyncio.wait_for(started.wait(), MOST_S)
            os.kill({"rank": rank, "nursery": nursery, "engine": engine.pid}[victim], signal.SIGKILL)
            errors = await asyncio.wait_for(asyncio.gather(*clients, return_exceptions=True), MOST_S)
            causes = {
                "rank": f"rank 1 (process {rank}) was killed by SIGKILL",
                "nursery": "starts ranks",
                "engine": "-9",
            }
            assert [type(error) for error in errors] == [EngineDeadError] * 3
            assert all(causes[victim] in str(error) for error in errors), errors
            wait_until_gone(*family)
        finally:
            await engine.close()

    asyncio.run(run())


def test_a_core_is_made_on_ranks_where_the_configuration_says_so() -> None:
    executor = MpExecutor(engine_config(**TWO), launcher=shared_launcher())
    core = EngineCore(engine_config(**TWO), executor, LatencyModel())
    try:
        assert core.info.device == "2 x cpu"
        assert executor.time_iteration(prefill_tokens=4, prefill_ctx=0, num_decodes=2, decode_ctx=8) > 0
    finally:
        core.close()
