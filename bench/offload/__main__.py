"""Copy rate of the offload engine each way and both ways at once, against plain copies of the same bytes in the same run.

`python -m bench.offload [--device cuda] [--output results.json]`; for a GPU see bench/offload/link.py. Blocks are scattered over arenas larger than the caches, so that
nothing is coalesced; memcpy is numpy.copyto, one call per block, on one thread per direction.
"""

import argparse
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.gpu.progress import Progress, run_item
from bench.lib.report import write_json
from bench.lib.timing import interleave
from bench.offload.link import measure_interference, measure_link
from fastserve._C.offload import Direction, HostArena, OffloadEngine

SEED = 1
TO_HOST = Direction.DEVICE_TO_HOST
TO_DEVICE = Direction.HOST_TO_DEVICE


class Copies:
    """One pair of arenas, half of whose blocks go out while the other half comes in."""

    def __init__(self, block_bytes: int, num_blocks: int) -> None:
        rng = np.random.default_rng(SEED)
        self.arena = HostArena(num_blocks, block_bytes)
        self.host = np.asarray(self.arena)
        self.device = np.asarray(HostArena(num_blocks, block_bytes))  # huge pages, as a device's memory would have
        self.device[:] = rng.integers(0, 256, block_bytes, dtype=np.uint8)
        order = [rng.permutation(num_blocks).astype(np.int32) for _ in range(2)]
        half = num_blocks // 2
        self.out = (order[0][:half], order[1][:half])  # device blocks, host blocks
        self.back = (order[1][half:], order[0][half:])  # host blocks, device blocks
        self.bytes = half * block_bytes
        self.engine = OffloadEngine(self.device, self.arena)
        self.checking = OffloadEngine(self.device, self.arena, verify_checksums=True)
        self.checking.wait(self.checking.submit(TO_HOST, self.back[1], self.back[0]))  # uploads need a known hash
        self.threads = ThreadPoolExecutor(2)

    def memcpy_out(self) -> None:
        for source, target in zip(*self.out, strict=True):
            np.copyto(self.host[target], self.device[source])

    def memcpy_back(self) -> None:
        for source, target in zip(*self.back, strict=True):
            np.copyto(self.device[target], self.host[source])

    def memcpy_both(self) -> None:
        for future in [self.threads.submit(self.memcpy_out), self.threads.submit(self.memcpy_back)]:
            future.result()

    def run(self, engine: OffloadEngine, *directions: Direction) -> None:
        blocks = {TO_HOST: self.out, TO_DEVICE: self.back}
        for ticket in [engine.submit(direction, *blocks[direction]) for direction in directions]:
            completion = engine.wait(ticket)
            if not completion.ok:
                raise RuntimeError(completion.error)

    def contenders(self) -> dict[str, tuple[Callable[[], object], str, int]]:
        """Return name -> (call, the memcpy it is held against, directions in use)."""
        return {
            "memcpy to host": (self.memcpy_out, "memcpy to host", 1),
            "memcpy to device": (self.memcpy_back, "memcpy to device", 1),
            "memcpy both ways": (self.memcpy_both, "memcpy both ways", 2),
            "offload": (lambda: self.run(self.engine, TO_HOST), "memcpy to host", 1),
            "upload": (lambda: self.run(self.engine, TO_DEVICE), "memcpy to device", 1),
            "both ways": (lambda: self.run(self.engine, TO_HOST, TO_DEVICE), "memcpy both ways", 2),
            "offload, verified": (lambda: self.run(self.checking, TO_HOST), "memcpy to host", 1),
            "upload, verified": (lambda: self.run(self.checking, TO_DEVICE), "memcpy to device", 1),
        }


def measure(block_bytes: int, *, arena_bytes: int, rounds: int, sample_s: float = 0.05) -> list[dict[str, object]]:
    """Time all contenders and print a line for each."""
    copies = Copies(block_bytes, arena_bytes // block_bytes)
    contenders = copies.contenders()
    samples = interleave({name: call for name, (call, _, _) in contenders.items()}, rounds=rounds, sample_s=sample_s)
    rows = []
    for name, (_, roof, directions) in contenders.items():
        rate = directions * copies.bytes / samples[name].median_s
        ratio = samples[roof].median_s / samples[name].median_s
        print(f"{block_bytes >> 10:>6} KiB  {name:<18} {rate / 1e9:6.1f} GB/s  spread {samples[name].spread:4.0%}"
              f"  {ratio:5.2f} x memcpy")  # fmt: skip
        rows.append({"name": name, "block_bytes": block_bytes, "bytes": directions * copies.bytes,
                     "bytes_per_s": rate, "ratio_to_memcpy": ratio, "seconds": samples[name].seconds})  # fmt: skip
    return rows


def run_link(args: argparse.Namespace, progress: Progress) -> list[dict[str, object]]:
    """What a GPU and its link give; every block size is an item, and its directions are items of their own in the file."""
    pool_bytes, results = args.arena_mib << 20, []

    def of_size(kib: int) -> dict[str, object]:
        rows = measure_link(args.device, kib << 10, pool_bytes=pool_bytes, rounds=args.rounds)
        results.extend(rows)
        for row in rows:
            progress.end(f"{kib} KiB {row['name']}", **row)
        return {}

    def beside_decode() -> dict[str, object]:
        block_bytes = max(args.block_kib) << 10
        results.append(measure_interference(args.device, block_bytes=block_bytes, pool_bytes=pool_bytes,
                                            rounds=20 * args.rounds))  # fmt: skip
        return results[-1]

    for kib in args.block_kib:
        run_item(progress, f"{kib} KiB", lambda kib=kib: of_size(kib))
    run_item(progress, "decode beside copies", beside_decode)
    progress.done()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.offload", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the KV pool lies")
    parser.add_argument("--block-kib", type=int, nargs="+", default=[64, 2048], help="sizes of one KV block")
    parser.add_argument("--arena-mib", type=int, default=256, help="size of each arena; larger than the caches")
    parser.add_argument("--link", action="store_true", help="the measurements of a GPU on any device (for tests)")
    parser.add_argument("--rounds", type=int, default=9, help="samples per contender")
    parser.add_argument("--progress", type=Path, metavar="FILE", help="of a GPU: see bench/gpu/progress.py")
    parser.add_argument("--output", type=Path, help="write results with all samples to this JSON file")
    args = parser.parse_args()
    if args.device == "cuda" or args.link:
        results = run_link(args, Progress(args.progress or Path(os.devnull)))
    else:
        results = []
        for kib in args.block_kib:
            results += measure(kib << 10, arena_bytes=args.arena_mib << 20, rounds=args.rounds)
    if args.output:
        config = {
            "device": args.device,
            "arena_mib": args.arena_mib,
            "block_kib": args.block_kib,
            "rounds": args.rounds,
            "seed": SEED,
        }
        write_json(args.output, config=config, results=results)


if __name__ == "__main__":
    main()
