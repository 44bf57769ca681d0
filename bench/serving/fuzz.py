"""`python -m bench.serving.fuzz --bodies 2000 --seed N`: hostile requests against a real server process.

Fails when one of them gets a 500, hangs, or leaves memory behind, or when an honest request in between gets another text than
it gets alone. The same seed sends the same bytes; `--only I` sends the one of that number.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from bench.serving.hostile_wire import attack
from bench.serving.servers import fastserve_command, free_port, server_process
from bench.serving.wire_client import perform
from tests.checkpoints import tiny_checkpoint

FLAGS = ("--max-model-len", "256", "--num-gpu-blocks-override", "256", "--num-host-blocks-override", "256", "--max-num-seqs", "16",
         "--num-threads", "1")  # fmt: skip
HANG_S = 60.0
# One honest request for so many hostile ones.
HONEST_EVERY = 10
CONNECTIONS = 8
# What is in the documents of the API, and what the protocol itself answers.
EXPECTED = {100, 200, 400, 404, 405, 408, 413, 429, 431, 503, 504}
# The allocators keep what the largest bodies took once. So growth counts from the second fifth of the run on.
WARM_UP = 0.2
MAX_GROWTH_BYTES = 64 << 20
HONEST = {"prompt": [5, 6, 7, 8], "max_tokens": 12, "temperature": 0, "ignore_eos": True, "model": "m"}


@dataclass(slots=True)
class Outcome:
    """Counts of a run, and what went wrong in it."""

    statuses: Counter[int] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    honest: int = 0
    failures: list[str] = field(default_factory=list)
    warm_bytes: int = 0
    end_bytes: int = 0

    def summary(self) -> str:
        """A few lines for people."""
        lines = [
            f"{sum(self.kinds.values())} attacks: " + ", ".join(f"{n} {kind}" for kind, n in self.kinds.most_common()),
            "replies: " + ", ".join(f"{n} x {status}" for status, n in sorted(self.statuses.items())),
            f"honest requests right: {self.honest}",
            f"memory of server and engine: {self.warm_bytes / 1e6:.0f} MB warm, {self.end_bytes / 1e6:.0f} MB at the end",
        ]
        return "\n".join(
            [*lines, *(f"FAILED: {row}" for row in self.failures), "green" if not self.failures else "red"]
        )


def run(url: str, process: psutil.Process, *, bodies: int, seed: int, only: int | None = None) -> Outcome:
    """Attack the server at `url`, whose main process is `process`."""
    return asyncio.run(_Run(url, process, seed).go(range(bodies) if only is None else [only]))


class _Run:
    def __init__(self, url: str, process: psutil.Process, seed: int) -> None:
        self._url, self._process, self._seed = url, process, seed
        self._outcome = Outcome()

    async def go(self, indices: Sequence[int]) -> Outcome:
        outcome = self._outcome
        async with httpx.AsyncClient(base_url=self._url, timeout=HANG_S) as client:
            expected = (await client.post("/v1/completions", json=HONEST)).json()["choices"]
            left = iter(indices)
            warm = round(len(indices) * WARM_UP)
            await asyncio.gather(*(self._attack_all(left, warm, client, expected) for _ in range(CONNECTIONS)))
            await self._check_honest(client, expected)
        outcome.end_bytes = self._memory_bytes()
        if outcome.warm_bytes and outcome.end_bytes - outcome.warm_bytes > MAX_GROWTH_BYTES:
            outcome.failures.append(f"memory grew by more than {MAX_GROWTH_BYTES >> 20} MiB")
        return outcome

    async def _attack_all(self, left, warm: int, client: httpx.AsyncClient, expected: object) -> None:
        for index in left:
            if index == warm:
                self._outcome.warm_bytes = self._memory_bytes()
            await self._attack(index)
            if index % HONEST_EVERY == 0:
                await self._check_honest(client, expected)

    async def _attack(self, index: int) -> None:
        outcome, hostile = self._outcome, attack(self._seed, index)
        answer = await perform(hostile, int(self._url.rpartition(":")[2]), HANG_S)
        outcome.kinds[hostile.kind] += 1
        outcome.statuses.update(answer.statuses)
        unexpected = set(answer.statuses) - EXPECTED
        if unexpected or answer.fault or answer.hung:
            what = "hung" if answer.hung else f"statuses {answer.statuses}"
            outcome.failures.append(f"--only {index} ({hostile.kind}): {what}: {hostile.data[:300]!r}")

    async def _check_honest(self, client: httpx.AsyncClient, expected: object) -> None:
        try:
            reply = await client.post("/v1/completions", json=HONEST)
            wrong = None if reply.status_code == 200 and reply.json()["choices"] == expected else reply.text[:300]
        except httpx.HTTPError as error:
            wrong = repr(error)
        if wrong is None:
            self._outcome.honest += 1
        else:
            self._outcome.failures.append(f"an honest request: {wrong}")

    def _memory_bytes(self) -> int:
        """Of the server and the engine: a side process starts when it is first needed, and has a limit of its own."""
        engine = [child for child in self._process.children() if "fastserve.engine.process" in child.cmdline()]
        return sum(process.memory_info().rss for process in [self._process, *engine])


def fuzz(*, bodies: int, seed: int, only: int | None = None) -> Outcome:
    """Start a server on a tiny random model and attack it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.log"
        with server_process(fastserve_command(tiny_checkpoint("llama"), port, *FLAGS), url, log) as server:
            outcome = run(url, psutil.Process(server.pid), bodies=bodies, seed=seed, only=only)
        said = log.read_text(errors="replace")
    if "Traceback" in said:
        last = said[said.rindex("Traceback") :][-2000:]
        outcome.failures.append(f"tracebacks in the server's log, the last one: {last}")
    return outcome


def main() -> int:
    """Print what a run showed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bodies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the attack of this number alone")
    options = parser.parse_args()
    started_s = time.monotonic()
    outcome = fuzz(bodies=options.bodies, seed=options.seed, only=options.only)
    print(outcome.summary())
    print(f"seed {options.seed}, {time.monotonic() - started_s:.0f} s")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    sys.exit(main())
