"""`python -m bench.serving.soak --seconds 900`: honest streams beside all attacks at once; who was disturbed, and what was left.

Windows without and with attacks take turns, so that a drift of the machine is in both. A stream's normal gap is the longest between
two of its pieces in the quiet windows. Fails when

- a stream's longest gap under attack is above twice its normal gap and above the floor: `FLOOR_S`, twice the 50 ms within which
  /health must answer whatever comes in, plus the longest time for which this process itself, which only reads, did not get a
  core while attacks were sent: what the attackers take from a small machine is no fault of the server;
- an honest request fails, or its text is not what it was before the attacks;
- the memory of all processes of the server grows from the second third of the run on. The KV pool is touched as a whole before.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

from bench.demo.model import build_demo_model
from bench.lib.report import write_json
from bench.serving.servers import fastserve_command, free_port, server_process

ROOT = Path(__file__).parents[2]
CONTEXT, NUM_BLOCKS, BLOCK_SIZE = 1024, 2048, 16
FLAGS = ("--max-model-len", str(CONTEXT), "--num-gpu-blocks-override", str(NUM_BLOCKS), "--num-host-blocks-override", "256", "--max-num-seqs", "128",
         "--num-threads", "1")  # fmt: skip
# As long as each other, so that the longest of both are of as many gaps.
QUIET_S = ATTACK_S = 30.0
FLOOR_S = 0.1
# Streams still slow from the last attack are no measure of what is normal.
SETTLE_S = 2.0
MAX_TOKENS = 300
TICK_S = 0.01
MAX_GROWTH_BYTES = 32 << 20


@dataclass(slots=True)
class Stream:
    """One honest client's gaps, seconds, and what went wrong for it."""

    normal: list[float] = field(default_factory=list)
    attacked: list[float] = field(default_factory=list)
    text: str | None = None
    requests: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Soak:
    """The state of a run, and its measurements."""

    streams: list[Stream]
    process: psutil.Process
    attacking: bool = False
    settled_s: float = 0.0
    own_lag_s: float = 0.0
    memory: list[tuple[float, int]] = field(default_factory=list)

    def count_gap(self, stream: Stream, gap_s: float, now_s: float) -> None:
        """Put a gap where it belongs: those that span a change of windows belong to none."""
        if now_s - gap_s >= self.settled_s:
            (stream.attacked if self.attacking else stream.normal).append(gap_s)

    def floor_s(self) -> float:
        """The gap that is never too long."""
        return FLOOR_S + self.own_lag_s

    def growth_bytes(self) -> int:
        """Median memory of the last sixth of the run less that of the sixth after the first third."""
        sizes = np.array([size for _, size in self.memory])
        sixth = max(1, len(sizes) // 6)
        return int(np.median(sizes[-sixth:]) - np.median(sizes[len(sizes) // 3 :][:sixth]))

    def slope_bytes_per_s(self) -> float:
        """Of memory over time, from the second third on."""
        rows = np.array(self.memory[len(self.memory) // 3 :], dtype=float)
        return float(np.polyfit(rows[:, 0], rows[:, 1], 1)[0])

    def failures(self) -> list[str]:
        """What was broken of the bounds."""
        rows = []
        for number, stream in enumerate(self.streams):
            rows += [f"stream {number}: {fault}" for fault in stream.faults[:3]]
            if not stream.normal or not stream.attacked:
                rows.append(f"stream {number}: too short a run to tell")
            elif max(stream.attacked) > max(2 * max(stream.normal), self.floor_s()):
                rows.append(
                    f"stream {number}: {max(stream.attacked):.3f} s under attack, {max(stream.normal):.3f} s before"
                )
        if self.growth_bytes() > MAX_GROWTH_BYTES:
            rows.append(f"memory grew by {self.growth_bytes() / 1e6:.0f} MB")
        return rows


async def soak(url: str, process: psutil.Process, *, seconds: float, num_streams: int) -> Soak:
    """Run honest streams for so long, with attacks in between."""
    state = Soak([Stream() for _ in range(num_streams)], process)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:
        await _touch_kv_pool(client)
        tasks = [asyncio.create_task(_stream_on(state, number, client)) for number in range(num_streams)]
        while any(stream.text is None for stream in state.streams):
            await asyncio.sleep(0.1)  # all have once had an undisturbed reply, to compare with
        tasks += [asyncio.create_task(_watch_memory(state)), asyncio.create_task(_watch_own_lag(state))]
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            await _quiet(state, QUIET_S)
            async with _attackers(state, url):
                await _quiet(state, min(ATTACK_S, max(5.0, end_s - time.monotonic())))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return state


async def _touch_kv_pool(client: httpx.AsyncClient) -> None:
    """Write every block of the KV pool once: distinct prompts, a quarter more than the pool holds of them."""
    length = CONTEXT - BLOCK_SIZE
    tokens = np.random.default_rng(0).integers(3, 900, (5 * NUM_BLOCKS * BLOCK_SIZE // (4 * length), length))
    for prompt in tokens.tolist():
        (await client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1})).raise_for_status()


async def _quiet(state: Soak, seconds: float) -> None:
    state.settled_s = time.monotonic() + SETTLE_S
    await asyncio.sleep(SETTLE_S + seconds)
    state.settled_s = float("inf")


@asynccontextmanager
async def _attackers(state: Soak, url: str) -> AsyncIterator[None]:
    # At the lowest priority: elsewhere attackers have a machine of their own.
    command = ["nice", "-n", "19", sys.executable, "-m", "bench.serving.soak_attacks", url.rpartition(":")[2]]
    attackers = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    state.attacking = True
    try:
        yield
        if attackers.returncode is not None:
            raise RuntimeError(f"the attackers ended by themselves with {attackers.returncode}")
    finally:
        if attackers.returncode is None:
            attackers.kill()
        await attackers.wait()
        state.attacking = False


async def _stream_on(state: Soak, number: int, client: httpx.AsyncClient) -> None:
    stream = state.streams[number]
    body = {
        "prompt": [3 + (number * 7 + i * 5) % 900 for i in range(20)],
        "max_tokens": MAX_TOKENS, "temperature": 0, "ignore_eos": True, "stream": True,
    }  # fmt: skip
    while True:
        try:
            text = await _read_stream(state, stream, client, body)
        except (httpx.HTTPError, ValueError) as error:
            stream.faults.append(repr(error)[:300])
            await asyncio.sleep(1)
            continue
        stream.requests += 1
        stream.text = stream.text or text
        if text != stream.text:
            stream.faults.append("another text than before the attacks")


async def _read_stream(state: Soak, stream: Stream, client: httpx.AsyncClient, body: dict[str, object]) -> str:
    """The text of one reply; counts the gaps between its pieces."""
    text, last_s = [], None
    async with client.stream("POST", "/v1/completions", json=body) as reply:
        if reply.status_code != 200:
            raise ValueError(f"status {reply.status_code}: {(await reply.aread())[:200]!r}")
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            now_s = time.monotonic()
            if last_s is not None:
                state.count_gap(stream, now_s - last_s, now_s)
            last_s = now_s
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise ValueError(line[:300])
            text += [choice["text"] for choice in chunk["choices"]]
    return "".join(text)


async def _watch_memory(state: Soak) -> None:
    while True:
        size = 0
        for process in [state.process, *state.process.children(recursive=True)]:
            try:
                size += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        state.memory.append((time.monotonic(), size))
        await asyncio.sleep(1)


async def _watch_own_lag(state: Soak) -> None:
    """How late this process wakes up while attacks run; it includes its own reading of all streams."""
    while True:
        started_s = time.monotonic()
        await asyncio.sleep(TICK_S)
        if state.attacking and started_s >= state.settled_s:
            state.own_lag_s = max(state.own_lag_s, time.monotonic() - started_s - TICK_S)


def report(state: Soak) -> list[dict[str, object]]:
    """Print what was measured; returns a row per stream."""
    rows = [
        {
            "stream": number,
            "requests": stream.requests,
            "normal_median_s": float(np.median(stream.normal or [0])),
            "normal_longest_s": max(stream.normal, default=0.0),
            "attacked_p99_s": float(np.percentile(stream.attacked or [0], 99)),
            "attacked_longest_s": max(stream.attacked, default=0.0),
            "faults": stream.faults,
        }
        for number, stream in enumerate(state.streams)
    ]
    print(
        f"{'stream':>6} {'replies':>7} {'median':>8} {'longest':>8} | {'p99':>8} {'longest':>8} under attack, ms; faults"
    )
    for row in rows:
        times = [
            row[name] * 1e3 for name in ("normal_median_s", "normal_longest_s", "attacked_p99_s", "attacked_longest_s")
        ]
        print(
            "{:6} {:7} {:8.1f} {:8.1f} | {:8.1f} {:8.1f}".format(row["stream"], row["requests"], *times),
            len(row["faults"]),
        )
    print(
        f"floor {state.floor_s() * 1e3:.0f} ms, of which {state.own_lag_s * 1e3:.0f} ms this process waited for a core itself"
    )
    sizes = [size / 1e6 for _, size in state.memory]
    print(f"memory {sizes[0]:.0f} MB at first, {max(sizes):.0f} at most, {sizes[-1]:.0f} at the end; growth {state.growth_bytes() / 1e6:+.1f}"
          f" MB, {state.slope_bytes_per_s() * 60 / 1e6:+.2f} MB a minute")  # fmt: skip
    return rows


def main() -> int:
    """Build a random model, serve it, soak it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--output", type=Path, help="results as JSON")
    options = parser.parse_args()
    url = f"http://127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory() as name:
        model = build_demo_model(Path(name) / "model", sorted(ROOT.glob("*.md")))
        command, log = fastserve_command(model, int(url.rpartition(":")[2]), *FLAGS), Path(name) / "server.log"
        with server_process(command, url, log) as process:
            server = psutil.Process(process.pid)
            state = asyncio.run(soak(url, server, seconds=options.seconds, num_streams=options.streams))
        said = log.read_text(errors="replace")
    rows, failures = report(state), state.failures()
    if "Traceback" in said:
        failures.append(f"tracebacks in the server's log, the last one: {said[said.rindex('Traceback') :][-2000:]}")
    if options.output:
        write_json(options.output, config=vars(options) | {"output": str(options.output)},
                   results=[*rows, {"memory": state.memory, "own_lag_s": state.own_lag_s}])  # fmt: skip
    print("\n".join([*(f"FAILED: {row}" for row in failures), "red" if failures else "green"]))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
