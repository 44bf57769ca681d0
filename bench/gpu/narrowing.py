"""Narrow attention shapes that fail to the smallest that still do: `python -m bench.gpu.narrowing FILE PROGRAM RESULTS...`.

Takes the failed comparisons of gpu_smoke out of the results (results.json of bench/gpu_check.sh), the first one of each kernel,
and tries simpler shapes one after another; whatever still fails goes on. What it took away without a change, and what cannot be taken
away, says which feature is at fault. FILE gets an item per kernel. Imports nothing beyond the standard library.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.gpu.progress import Progress, run_item

KERNELS = ("naive", "decode", "mma", "hopper")  # in the order in which they depend on one another
STALL_S = 15.0


@dataclass(frozen=True, slots=True)
class Shape:
    """What gpu_smoke calls a shape: `decode bf16 32/8 d128 p16 4097:1,1:1 fused`; see bench/gpu_smoke/spec.h.

    Attributes:
        rows: KV tokens and query tokens of each row.
        words: fused, ordered, far.
    """

    kernel: str
    dtype: str
    num_q_heads: int
    num_kv_heads: int
    head_dim: int
    page_tokens: int
    rows: tuple[tuple[int, int], ...]
    words: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> "Shape":
        kernel, dtype, heads, head_dim, page, rows, *words = text.split()
        q_heads, kv_heads = heads.split("/")
        parsed = []
        for word in rows.split(","):
            row, _, count = word.partition("*")
            length, queries = row.split(":")
            parsed += [(int(length), int(queries))] * int(count or 1)
        return cls(
            kernel,
            dtype,
            int(q_heads),
            int(kv_heads),
            int(head_dim[1:]),
            int(page[1:]),
            tuple(parsed),
            frozenset(words),
        )

    def __str__(self) -> str:
        rows = ",".join(f"{length}:{queries}" for length, queries in self.rows)
        words = "".join(f" {word}" for word in sorted(self.words))
        heads = f"{self.num_q_heads}/{self.num_kv_heads}"
        return f"{self.kernel} {self.dtype} {heads} d{self.head_dim} p{self.page_tokens} {rows}{words}"


def simpler(shape: Shape) -> Iterator[tuple[str, Shape]]:
    """Shapes with one feature less, the largest steps first, each with the name of what it lacks."""
    if "far" in shape.words:
        yield "pages beyond 2^31 elements", replace(shape, words=shape.words - {"far"})
    if len(shape.rows) > 1:
        for i, row in enumerate(shape.rows):
            yield f"all rows but {i}", replace(shape, rows=(row,))
        half = len(shape.rows) // 2
        yield "the second half of the rows", replace(shape, rows=shape.rows[:half])
        yield "the first half of the rows", replace(shape, rows=shape.rows[half:])
    if shape.num_kv_heads > 1:
        group = shape.num_q_heads // shape.num_kv_heads
        yield "all KV heads but one", replace(shape, num_q_heads=group, num_kv_heads=1)
    if shape.num_q_heads > shape.num_kv_heads:
        yield "groups of heads", replace(shape, num_q_heads=shape.num_kv_heads)
    if "fused" in shape.words:
        yield "strides of queries", replace(shape, words=shape.words - {"fused"})
    if "ordered" not in shape.words:
        yield "shuffled pages", replace(shape, words=shape.words | {"ordered"})
    if shape.page_tokens != 16:
        yield "another page size than 16", replace(shape, page_tokens=16)
    if shape.head_dim != 64:
        yield "another head size than 64", replace(shape, head_dim=64)
    if shape.dtype != "bf16":
        yield "another dtype than bf16", replace(shape, dtype="bf16")
    if any(queries > 1 for _, queries in shape.rows):
        yield "more than one query", replace(shape, rows=tuple((length, min(q, 1)) for length, q in shape.rows))
        yield "half of the queries", replace(shape, rows=tuple((length, -(-q // 2)) for length, q in shape.rows))
    for tokens in (1, 16, 17, 64, 65, 128, 129, 1024):
        rows = tuple((min(length, tokens), min(q, tokens)) for length, q in shape.rows)
        if rows != shape.rows:
            yield f"tokens beyond {tokens}", replace(shape, rows=rows)


def narrow(shape: Shape, fails: Callable[[Shape], bool], *, until_s: float) -> dict[str, object]:
    """Take features away as long as the shape fails.

    Args:
        fails: runs a shape.
        until_s: no further trial begins after this time of `time.monotonic`.
    Returns:
        `minimal`, a shape that fails; `not_needed`, what was taken away; `needed`, without which `minimal` is right;
        `complete`, whether all of it was tried.
    """
    not_needed: list[str] = []
    tried: set[Shape] = {shape}
    while True:
        needed = []
        for name, candidate in simpler(shape):
            if time.monotonic() > until_s:
                return {"minimal": str(shape), "not_needed": not_needed, "needed": needed, "complete": False}
            if candidate in tried or not fails(candidate):
                tried.add(candidate)
                needed.append(name)
                continue
            tried.add(candidate)
            shape = candidate
            not_needed.append(name)
            break
        else:
            return {"minimal": str(shape), "not_needed": not_needed, "needed": needed, "complete": True}


def failed_shapes(paths: Sequence[Path]) -> list[Shape]:
    """The first failed comparison of each kernel."""
    first: dict[str, Shape] = {}
    for path in paths:
        stages = json.loads(path.read_text())["stages"] if path.is_file() else {}
        for item in stages.get("smoke", {}).get("items", ()):
            kernel = item["end"].partition(" ")[0]
            if kernel in KERNELS and item["outcome"] not in ("ok", "left out", "not run"):
                first.setdefault(kernel, Shape.parse(item["end"]))
    return [first[kernel] for kernel in KERNELS if kernel in first]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.narrowing", description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="items, as JSON lines")
    parser.add_argument("program", help="gpu_smoke")
    parser.add_argument("results", type=Path, nargs="+", help="results.json of bench/gpu_check.sh")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each kernel")
    args = parser.parse_args()
    progress = Progress(args.file)

    def fails(shape: Shape) -> bool:
        command = [args.program, "--stall-s", str(STALL_S), str(shape)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False, timeout=4 * STALL_S)
        print(f"{'fails' if done.returncode else 'right'}: {shape}", flush=True)
        return done.returncode != 0

    def narrowed(shape: Shape) -> dict[str, object]:
        if not fails(shape):
            return {"minimal": "", "shape": str(shape), "needed": [], "not_needed": [], "complete": True}
        return {"shape": str(shape)} | narrow(shape, fails, until_s=time.monotonic() + args.budget)

    for shape in failed_shapes(args.results):
        run_item(progress, shape.kernel, lambda shape=shape: narrowed(shape))
    progress.done()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
