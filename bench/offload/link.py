"""The copies of KV between a GPU and the host: by block size and direction, batched or one by one, beside the compute.

`python -m bench.offload --device cuda [--block-kib 64 2048] [--output FILE]`. The roof is one large copy of as
many bytes between the same page-locked memory and the device, by the copy engine, in the same run. With a CPU as the
device the same code runs, for tests: its numbers say nothing about a link.
"""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from bench.kernels.attention_gpu import Shape, contenders, kv_bytes
from bench.kernels.case import FASTSERVE
from bench.lib.gpu_timing import Span
from bench.lib.timing import Samples
from fastserve._C.offload import Direction, HostArena, OffloadEngine

TO_HOST, TO_DEVICE = Direction.DEVICE_TO_HOST, Direction.HOST_TO_DEVICE
SEED = 1
MOST_BLOCKS = 32768
# A decode step of one layer of Llama-3-8B; on a CPU something that ends.
DECODE = {"cuda": Shape((32, 8, 128), [4096] * 32, 1), "cpu": Shape((4, 2, 64), [64] * 4, 1)}
_WARM_UPS = 3
_CALLS_AT_A_TIME = 10


class Link:
    """A KV pool on the device and arenas on the host; half of the blocks, scattered, move at a time."""

    def __init__(self, device: str, block_bytes: int, num_blocks: int) -> None:
        self.cuda = device == "cuda"
        self.kv = torch.zeros((num_blocks, block_bytes), dtype=torch.uint8, device=device)
        self.arena = HostArena(num_blocks, block_bytes, pin=self.cuda)
        self.compute = torch.cuda.Stream() if self.cuda else None
        options = {"compute_stream": self.compute.cuda_stream} if self.cuda else {}
        self.batched = OffloadEngine(self.kv, self.arena, **options)
        self.single = OffloadEngine(self.kv, self.arena, batch_copies=False, **options)
        half = num_blocks // 2
        rng = np.random.default_rng(SEED)
        device_order, host_order = (rng.permutation(num_blocks).astype(np.int32) for _ in range(2))
        self.moves = {
            TO_HOST: (device_order[:half], host_order[:half]),
            TO_DEVICE: (host_order[half:], device_order[half:]),
        }
        self.bytes = half * block_bytes
        # The roof: whole halves, as one piece each.
        host = torch.from_numpy(np.asarray(self.arena)).view(-1)
        flat = self.kv.view(-1)
        self._roof = {
            TO_HOST: (host[: self.bytes], flat[: self.bytes]),
            TO_DEVICE: (flat[self.bytes : 2 * self.bytes], host[self.bytes : 2 * self.bytes]),
        }
        self._streams = {way: torch.cuda.Stream() if self.cuda else None for way in self._roof}
        self.synchronize()

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def move(self, engine: OffloadEngine, *directions: Direction) -> None:
        """Move the blocks and wait."""
        for ticket in [engine.submit(way, *self.moves[way]) for way in directions]:
            completion = engine.wait(ticket)
            if not completion.ok:
                raise RuntimeError(completion.error)

    @contextlib.contextmanager
    def busy_both_ways(self) -> Iterator[Callable[[], None]]:
        """Copies both ways from now on, two each way in the queue, for as long as what is yielded is called often enough."""
        halves = {
            way: itertools.cycle(list(zip(*(np.array_split(blocks, 2) for blocks in move), strict=True)))
            for way, move in self.moves.items()
        }

        def submit(way: Direction) -> None:
            self.batched.submit(way, *next(halves[way]))

        def refill() -> None:
            for completion in self.batched.poll():
                if not completion.ok:
                    raise RuntimeError(completion.error)
                submit(completion.direction)

        for way in self.moves:
            submit(way)
            submit(way)
        try:
            yield refill
        finally:
            while self.batched.wait_any():
                self.batched.poll()

    def time_calls(
        self, call: Callable[[], object], rounds: int, *, between: Callable[[], None] = lambda: None
    ) -> Samples:
        """Seconds of each of `rounds` calls on the compute stream, a few queued at a time; by events on a GPU."""
        if not self.cuda:
            seconds = []
            for _ in range(rounds):
                between()
                started_s = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - started_s)
            return Samples(tuple(seconds))
        spans = []
        with torch.cuda.stream(self.compute):
            for _ in range(_WARM_UPS):
                call()
            for first in range(0, rounds, _CALLS_AT_A_TIME):
                self.compute.synchronize()  # a copy begins after what the stream held when it was submitted
                between()
                for _ in range(first, min(first + _CALLS_AT_A_TIME, rounds)):
                    spans.append(Span(call))
            self.compute.synchronize()
        return Samples(tuple(span.seconds() for span in spans))

    def close(self) -> None:
        """Stop the copy threads."""
        self.batched.close()
        self.single.close()

    def copy_whole(self, *directions: Direction) -> None:
        """The roof: the same bytes in large copies."""
        for way in directions:
            target, source = self._roof[way]
            if self.cuda:
                with torch.cuda.stream(self._streams[way]):
                    target.copy_(source, non_blocking=True)
            else:
                target.copy_(source)
        self.synchronize()


def timed_in_turns(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Samples]:
    """Seconds of each contender in each of `rounds` rounds, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            started_s = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - started_s)
    return {name: Samples(tuple(samples)) for name, samples in seconds.items()}


def measure_link(device: str, block_bytes: int, *, pool_bytes: int, rounds: int) -> list[dict[str, object]]:
    """Rates of one block size, each way and both at once; prints a line per direction."""
    link = Link(device, block_bytes, num_blocks(pool_bytes, block_bytes))
    rows = []
    for name, ways in (("to host", (TO_HOST,)), ("to device", (TO_DEVICE,)), ("both ways", (TO_HOST, TO_DEVICE))):
        calls = {
            "roof": lambda ways=ways: link.copy_whole(*ways),
            "batched": lambda ways=ways: link.move(link.batched, *ways),
            "single": lambda ways=ways: link.move(link.single, *ways),
        }
        samples = timed_in_turns(calls, rounds)
        num_bytes = len(ways) * link.bytes
        rates = {kind: num_bytes / sample.median_s for kind, sample in samples.items()}
        print(f"{block_bytes >> 10:>6} KiB  {name:<10}  batched {rates['batched'] / 1e9:6.1f} GB/s"
              f"  one by one {rates['single'] / 1e9:6.1f}  large copy {rates['roof'] / 1e9:6.1f}"
              f"  {rates['batched'] / rates['roof']:5.2f} x large copy", flush=True)  # fmt: skip
        rows.append({
            "name": name, "block_bytes": block_bytes, "bytes": num_bytes,
            **{f"{kind}_bytes_per_s": rate for kind, rate in rates.items()},
            **{f"{kind}_seconds": samples[kind].seconds for kind in samples},
        })  # fmt: skip
    link.close()
    return rows


def num_blocks(pool_bytes: int, block_bytes: int) -> int:
    """Blocks of a pool; of the smallest blocks fewer, since each may take microseconds."""
    return max(4, min(pool_bytes // block_bytes, MOST_BLOCKS))


def measure_interference(device: str, *, block_bytes: int, pool_bytes: int, rounds: int) -> dict[str, object]:
    """How much decode attention slows down while KV moves both ways."""
    link = Link(device, block_bytes, num_blocks(pool_bytes, block_bytes))
    with torch.device(device):
        decode = contenders(DECODE[device])[FASTSERVE]
    alone = link.time_calls(decode, rounds)
    with link.busy_both_ways() as refill:
        beside = link.time_calls(decode, rounds, between=refill)
    link.close()
    slowdown = beside.median_s / alone.median_s - 1
    read_bytes = kv_bytes(DECODE[device])
    print(f"decode of {read_bytes / 1e9:.2f} GB: {read_bytes / alone.median_s / 1e9:.0f} GB/s alone,"
          f" {read_bytes / beside.median_s / 1e9:.0f} GB/s while KV moves both ways: {slowdown:+.1%} time", flush=True)  # fmt: skip
    return {"name": "decode beside copies", "read_bytes": read_bytes, "slowdown": slowdown,
            "alone_seconds": alone.seconds, "beside_seconds": beside.seconds}  # fmt: skip
