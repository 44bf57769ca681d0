"""`fastserve serve` whose engine is lost: by a fault of a (simulated) GPU in the middle of a step, and by SIGKILL."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from tests.checkpoints import tiny_checkpoint
from tests.faulty_device import FAULT_FILE

FLAGS = ("--max-model-len", "512", "--num-gpu-blocks-override", "128", "--num-host-blocks-override", "128",
         "--max-num-seqs", "4", "--max-num-batched-tokens", "64", "--max-prefill-chunk-tokens", "32",
         "--num-threads", "1", "--served-model-name", "tiny", "--port", "0")  # fmt: skip
LIMIT_S = 60.0
LONG = 250  # tokens, about a second
NUM_WAITING = 5  # more than there are batch slots, so that some are parked or queued
FAULT = "an illegal memory access was encountered"


class Served:
    """A server process, and its engine's ends."""

    def __init__(self, process: subprocess.Popen, http: httpx.Client, fault_file: Path) -> None:
        self.process = process
        self.http = http
        self._fault_file = fault_file

    def engine(self) -> psutil.Process:
        (engine,) = psutil.Process(self.process.pid).children()
        return engine

    def lose_device(self) -> None:
        self._fault_file.touch()

    def kill_engine(self) -> None:
        self.engine().kill()

    def wait(self, path: str, status: int) -> None:
        """Return once a route answers with a status."""
        end_s = time.monotonic() + LIMIT_S
        while self.http.get(path).status_code != status:
            assert time.monotonic() < end_s and self.process.poll() is None
            time.sleep(0.02)

    def client(self, max_retries: int) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.http.base_url}/v1", api_key="none", max_retries=max_retries)

    def restarts(self) -> int:
        return self._metric("engine_restarts_total")

    def wait_running(self, least: int) -> None:
        """Return once so many requests are in the batch."""
        end_s = time.monotonic() + LIMIT_S
        while self._metric("num_requests_running") < least:
            assert time.monotonic() < end_s
            time.sleep(0.005)

    def _metric(self, name: str) -> int:
        return int(float(re.search(rf"fastserve:{name}\{{.*\}} (.*)", self.http.get("/metrics").text)[1]))


@contextmanager
def serve(folder: Path, *flags: str) -> Iterator[Served]:
    """Run the server until the body ends; yields once it is ready."""
    fault_file = folder / "fault"
    command = [sys.executable, "-m", "tests.faulty_device", "serve", str(tiny_checkpoint("llama")), *FLAGS, *flags]
    environment = os.environ | {FAULT_FILE: str(fault_file)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        with httpx.Client(base_url=url, timeout=LIMIT_S) as http:
            served = Served(process, http, fault_file)
            served.wait("/readyz", 200)
            yield served
    finally:
        process.kill()
        process.communicate()


def ask(client: openai.OpenAI, which: int, **fields: object):
    prompt = [3 + (which * 7 + i * 5) % 90 for i in range(20 + which)]
    settings = {"max_tokens": 30, "temperature": 0, "extra_body": {"ignore_eos": True}}
    return client.completions.create(model="tiny", prompt=prompt, **settings | fields)


def lose(served: Served, end: Callable[[], None], reason: str) -> None:
    """End the engine while a stream is read and while others wait for whole replies; all get the reason."""
    with served.client(max_retries=0) as client, ThreadPoolExecutor(NUM_WAITING) as threads:
        expected = ask(client, 1, max_tokens=LONG).choices[0].text
        stream = iter(ask(client, 1, max_tokens=LONG, stream=True))
        received = next(stream).choices[0].text
        waiting = [threads.submit(ask, client, which, max_tokens=LONG) for which in range(2, 2 + NUM_WAITING)]
        served.wait_running(2)
        end()
        with pytest.raises(openai.APIError, match=reason) as error:
            for chunk in stream:
                received += chunk.choices[0].text
        assert error.value.code == "engine_dead"
        assert expected.startswith(received) and received != expected
        for reply in waiting:
            with pytest.raises(openai.InternalServerError, match=reason) as refusal:
                reply.result()
            assert refusal.value.status_code == 503 and refusal.value.code == "engine_dead"


@pytest.mark.timeout(120)
def test_an_engine_lost_to_a_fault_or_a_signal_is_replaced_and_the_last_one_ends_the_server(tmp_path):
    with serve(tmp_path, "--restart-engine", "--max-engine-restarts", "2") as served:
        with served.client(max_retries=0) as client:
            before = ask(client, 2).choices[0].text
        engines = [served.engine()]
        for end, reason in ((served.lose_device, FAULT), (served.kill_engine, "status -9")):
            lose(served, end, reason)
            assert served.http.get("/health").status_code == 503
            refused = served.http.post("/v1/completions", json={"prompt": [5], "max_tokens": 1})
            assert refused.status_code == 503 and "retry-after" in refused.headers
            assert served.http.get("/livez").status_code in (200, 503)  # 503 until the restart is under way
            with served.client(max_retries=20) as patient:  # its first tries come too early
                assert ask(patient, 2).choices[0].text == before
            engines.append(served.engine())
            assert served.restarts() == len(engines) - 1
            served.wait("/health", 200)
        assert len(set(engines)) == 3
        lose(served, served.lose_device, FAULT)
        assert served.process.wait(LIMIT_S) == 1
        assert psutil.wait_procs(engines, timeout=LIMIT_S)[1] == []


def test_a_fault_ends_the_server_with_1_where_no_restart_is_asked_for(tmp_path):
    with serve(tmp_path) as served:
        lose(served, served.lose_device, FAULT)
        assert served.http.get("/health").status_code == 503
        assert served.http.get("/livez").status_code == 503
        assert served.process.wait(LIMIT_S) == 1
