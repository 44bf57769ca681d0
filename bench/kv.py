"""Cost of the KV manager per block and per call, against a free list in plain Python in the same run.

`python -m bench.kv [--output results.json]`. Work is done for many blocks per call, so that the crossing from Python
(row "bare call") does not count, except for commit_computed, which is one call per request and step.
"""

import argparse
from collections import deque
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.lib.report import write_json
from bench.lib.timing import interleave
from fastserve._C.kv import Tier
from tests.core_internals import KvManager

BLOCK_SIZE = 16


class Operations:
    """Managers in the states that the operations need, each of which an operation leaves as it found it."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.prompt = np.arange(num_blocks * BLOCK_SIZE + 1, dtype=np.int32)
        self.plain = self.manager(caching=False)
        self.decoding = self.manager(caching=True)
        self.cached = self.manager(caching=True)
        self.filling = self.manager(caching=True)
        self.compute(self.cached)
        self.num_decoded = 0
        self.free_list = deque(range(2 * num_blocks))

    def manager(self, *, caching: bool) -> KvManager:
        manager = KvManager(
            block_size=BLOCK_SIZE,
            num_device_blocks=2 * self.num_blocks,
            num_host_blocks=2 * self.num_blocks,
            enable_prefix_caching=caching,
        )
        manager.begin(0, self.prompt)
        return manager

    def compute(self, manager: KvManager) -> None:
        if not manager.try_reserve(0, len(self.prompt)):
            raise RuntimeError("the pool is too small for the prompt")
        manager.commit_computed(0, self.prompt, len(self.prompt))

    def python_free_list(self) -> None:
        held = [self.free_list.popleft() for _ in range(self.num_blocks)]
        self.free_list.extend(held)

    def allocate_and_free(self) -> None:
        self.plain.try_reserve(0, self.num_blocks * BLOCK_SIZE)
        self.plain.drop(0)

    def probe(self) -> None:
        self.cached.probe_prefix(self.prompt)

    def begin_and_end(self) -> None:
        self.cached.begin(1, self.prompt)
        self.cached.end(1)

    def fill_and_forget(self) -> None:
        self.compute(self.filling)
        self.filling.drop(0)
        self.filling.clear_prefix_cache()

    def move_out_and_back(self) -> None:
        offload = self.cached.try_offload(0)
        if len(offload) > 0:
            self.cached.complete(offload.id, True)
        upload = self.cached.try_upload(0)
        if len(upload) > 0:
            self.cached.complete(upload.id, True)

    def decode(self) -> None:
        """Commit one more token, which fills no block in most calls."""
        if self.num_decoded == 0:
            self.decoding.drop(0)
            self.decoding.try_reserve(0, len(self.prompt))
        self.num_decoded += 1
        self.decoding.commit_computed(0, self.prompt, self.num_decoded)
        self.num_decoded %= len(self.prompt)

    def bare_call(self) -> None:
        self.plain.num_free(Tier.DEVICE)

    def contenders(self) -> dict[str, tuple[Callable[[], object], int]]:
        """Return name -> (call, units of work in it)."""
        return {
            "python free list, per block": (self.python_free_list, self.num_blocks),
            "allocate + free, per block": (self.allocate_and_free, self.num_blocks),
            "probe, per block": (self.probe, self.num_blocks),
            "begin + end of a hit, per block": (self.begin_and_end, self.num_blocks),
            "reserve + commit + drop + forget, per block": (self.fill_and_forget, self.num_blocks),
            "mirrored move out and back, per block": (self.move_out_and_back, self.num_blocks),
            "bare call": (self.bare_call, 1),
            "commit of one token, per call": (self.decode, 1),
        }


def measure(num_blocks: int, *, rounds: int, sample_s: float = 0.02) -> list[dict[str, object]]:
    """Time all operations and print a line for each."""
    contenders = Operations(num_blocks).contenders()
    samples = interleave({name: call for name, (call, _) in contenders.items()}, rounds=rounds, sample_s=sample_s)
    rows = []
    for name, (_, units) in contenders.items():
        unit_s = samples[name].median_s / units
        print(f"{name:<45} {unit_s * 1e9:8.1f} ns  spread {samples[name].spread:4.0%}")
        rows.append({"name": name, "unit_s": unit_s, "units": units, "seconds": samples[name].seconds})
    ratio = samples["python free list, per block"].median_s / samples["allocate + free, per block"].median_s
    print(f"allocate + free goes {ratio:.1f} times as fast as the free list in Python")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kv", description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=1024, help="blocks per call")
    parser.add_argument("--rounds", type=int, default=9, help="samples per operation")
    parser.add_argument("--output", type=Path, help="write results with all samples to this JSON file")
    args = parser.parse_args()
    results = measure(args.blocks, rounds=args.rounds)
    if args.output:
        write_json(args.output, config={"blocks": args.blocks, "rounds": args.rounds}, results=results)


if __name__ == "__main__":
    main()
