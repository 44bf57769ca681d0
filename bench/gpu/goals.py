"""What every number of `bench/gpu_check.sh` is held against: shares of what the same GPU gives, or plain limits.

Goals were set for an H200 (copy 4.3 TB/s, bf16 products 790 TFLOP/s); as shares of the roofs measured beside them they hold for
any GPU. Times and rates of a link that no roof bounds are those of an H200 or H100 on PCIe 5 x16.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FASTSERVE = "fastserve"

Rows = Mapping[str, Mapping]
"""Rows of a stage by "kernel shape" or the name of the item."""


@dataclass(frozen=True, slots=True)
class Goal:
    """One number to be reached.

    Attributes:
        name: what it is of.
        value: takes the rows of the stage; KeyError where it was not measured.
        goal: the least, or with `at_most` the most that it may be.
        unit: "share", "us", "ms", "GB/s" or "".
    """

    name: str
    value: Callable[[Rows], float]
    goal: float
    unit: str = "share"
    at_most: bool = False

    def line(self, rows: Rows) -> str:
        """The number beside its goal."""
        try:
            value = self.value(rows)
        except (KeyError, IndexError, ValueError, StopIteration, ZeroDivisionError):
            return f"{'?':<5} {self.name:<52} {'not measured':>12}   goal {self._words(self.goal)}"
        reached = value <= self.goal if self.at_most else value >= self.goal
        return (
            f"{'ok' if reached else 'BELOW':<5} {self.name:<52} {_number(value, self.unit):>12}   goal"
            f" {self._words(self.goal)}"
        )

    def _words(self, value: float) -> str:
        return ("<= " if self.at_most else ">= ") + _number(value, self.unit)


def _number(value: float, unit: str) -> str:
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:.3g} {unit}".strip()


def _of_copy(name: str) -> Callable[[Rows], float]:
    return lambda rows: _rate(rows[name], "bytes_moved") / rows[name]["copy_roof_bytes_per_s"]


def _of_products(name: str) -> Callable[[Rows], float]:
    return lambda rows: _rate(rows[name], "flops") / rows[name]["matmul_roof_flops_per_s"]


def _rate(row: Mapping, quantity: str) -> float:
    return row[quantity] / row["median_s"][FASTSERVE]


def _in_graph_us(name: str) -> Callable[[Rows], float]:
    """Alone, the time between two events is that of the launch."""

    def value(rows: Rows) -> float:
        if rows[name]["in_graph_s"] is None:
            raise KeyError(name)
        return 1e6 * rows[name]["in_graph_s"]

    return value


def _against(name: str, contender: str) -> Callable[[Rows], float]:
    """Speed over that of another way to run the same."""
    return lambda rows: rows[name]["median_s"][contender] / rows[name]["median_s"][FASTSERVE]


def _mixed_over_uniform(rows: Rows) -> float:
    mixed = next(row for name, row in rows.items() if name.startswith("decode attn B=64 ctx=128..32768"))
    uniform = [row for name, row in rows.items() if name.startswith("decode attn B=64 ctx=") and name not in _SHORT]
    uniform = [row for row in uniform if ".." not in row["shape"]]
    return _rate(mixed, "bytes_moved") / _rate(uniform[0], "bytes_moved")


_SHORT = {f"decode attn B=64 ctx={ctx} 32/32 D=128" for ctx in (128, 512, 1024)}


def _decode(shape: str) -> str:
    return f"decode attn {shape} 32/8 D=128"


FEW_ATTENTION = (
    Goal("prefill D128, 8 x 4k", _of_products("prefill attn B=8 ctx=4096 q=4096 16/16 D=128"), 0.835),
    Goal("chunk of 512 behind 3584, 2 rows", _of_products("prefill attn B=2 ctx=4096 q=512 32/8 D=128"), 0.67),
    Goal("prefill, scattered pages over pages in order",
         _against("prefill attn B=8 ctx=4096 q=4096 16/16 D=128", "in order"), 0.97),
    Goal("decode 32/8, 32 x 4k, of a copy", _of_copy(_decode("B=32 ctx=4096")), 0.96),
    Goal("decode 32/8, 1 x 1k, in a graph", _in_graph_us(_decode("B=1 ctx=1024")), 6.5, "us", at_most=True),
    Goal("decode, pages of 16 over pages of 32", _against(_decode("B=32 ctx=4096"), "block 32"), 0.98),
)  # fmt: skip

MORE_ATTENTION = (
    Goal("prefill D128, 2 x 16k, of matrix products", _of_products("prefill attn B=2 ctx=16384 q=16384 16/16 D=128"), 0.86),
    Goal("prefill D128, 32 x 1k", _of_products("prefill attn B=32 ctx=1024 q=1024 16/16 D=128"), 0.63),
    Goal("prefill D64, 4 x 8k", _of_products("prefill attn B=4 ctx=8192 q=8192 32/32 D=64"), 0.595),
    Goal("decode 32/8, 8 x 32k", _of_copy(_decode("B=8 ctx=32768")), 0.99),
    Goal("decode 32/8, 8 x 4k", _of_copy(_decode("B=8 ctx=4096")), 0.84),
    Goal("decode 32/8, 8 x 1k", _of_copy(_decode("B=8 ctx=1024")), 0.60),
    Goal("decode 32/8, 1 x 32k", _of_copy(_decode("B=1 ctx=32768")), 0.84),
    Goal("decode 32/32, 64 x 128", _of_copy("decode attn B=64 ctx=128 32/32 D=128"), 0.68),
    Goal("decode 32/32, 64 x 512", _of_copy("decode attn B=64 ctx=512 32/32 D=128"), 0.88),
    Goal("decode 32/32, 64 x 1k", _of_copy("decode attn B=64 ctx=1024 32/32 D=128"), 0.93),
    Goal("decode, 64 lengths 128..32k over one length", _mixed_over_uniform, 0.93),
)  # fmt: skip

KERNELS = (
    Goal("add + RMSNorm 2048 x 8192, of a copy", _of_copy("rms_norm T=2048 H=8192 bf16"), 0.93),
    Goal("add + RMSNorm 1 x 4096, in a graph", _in_graph_us("rms_norm T=1 H=4096 bf16"), 1.8, "us", at_most=True),
    Goal("rope + KV write, 2048 tokens, of a copy", _of_copy("rope_kv_write T=2048 heads=32+2x8 D=128 bf16"), 0.85),
    Goal("rope + KV write, 64 tokens, in a graph",
         _in_graph_us("rope_kv_write T=64 heads=32+2x8 D=128 bf16"), 2.5, "us", at_most=True),
    Goal("SiLU-mul 4096 x 14336, of a copy", _of_copy("activation silu gated T=4096 I=14336 bf16"), 0.93),
    Goal("greedy, 128 x 128k, of a copy", _of_copy("sample greedy R=128 V=128256"), 0.85),
    Goal("top-k and top-p, 128 x 128k, of a copy", _of_copy("sample top_k_p R=128 V=128256"), 0.255),
)  # fmt: skip


def _of_large_copy(name: str) -> Callable[[Rows], float]:
    return lambda rows: rows[name]["batched_bytes_per_s"] / rows[name]["roof_bytes_per_s"]


def _link_rate(name: str) -> Callable[[Rows], float]:
    return lambda rows: rows[name]["batched_bytes_per_s"] / 1e9


SWAP_IN_BYTES = 256 * (2 << 20)  # 4096 tokens of Llama-3-8B

OFFLOAD = (
    Goal("KV to host, 2 MiB blocks, of one large copy", _of_large_copy("2048 KiB to host"), 0.97),
    Goal("KV to device, 2 MiB blocks, of one large copy", _of_large_copy("2048 KiB to device"), 0.97),
    Goal("KV to host, 2 MiB blocks", _link_rate("2048 KiB to host"), 50, "GB/s"),
    Goal("KV to device, 2 MiB blocks", _link_rate("2048 KiB to device"), 50, "GB/s"),
    Goal("KV both ways, 2 MiB blocks", _link_rate("2048 KiB both ways"), 88, "GB/s"),
    Goal("swap-in of 4096 tokens of Llama-3-8B",
         lambda rows: 1e3 * SWAP_IN_BYTES / rows["2048 KiB to device"]["batched_bytes_per_s"], 11, "ms", at_most=True),
    Goal("slowdown of decode beside copies both ways", lambda rows: rows["decode beside copies"]["slowdown"], 0.03,
         at_most=True),
)  # fmt: skip


def _rows_of(rows: Rows, kind: str) -> list[Mapping]:
    found = [row for row in rows.values() if row.get("kind") == kind]
    if not found:
        raise KeyError(kind)
    return found


FULL_BATCHES = (
    Goal("step of a full batch, of what memory allows",
         lambda rows: max(row["of_bound"] for row in _rows_of(rows, "saturated")), 0.85),
    Goal("CPU time of a step beyond the GPU's, saturated",
         lambda rows: min(1e6 * row["host_s_per_step"] for row in _rows_of(rows, "saturated")), 300, "us", at_most=True),
)  # fmt: skip

ARRIVALS = (
    Goal("step that preempts over one that does not",
         lambda rows: max(row["preempting_step_ratio"] for row in _rows_of(rows, "load") if row["preempting_step_ratio"]),
         2.0, "x", at_most=True),
)  # fmt: skip

RACE = (
    Goal("steps that saw a wrong byte (tests that failed)",
         lambda rows: float(sum(row["outcome"] != "passed" for row in _ran(rows))), 0, "", at_most=True),
)  # fmt: skip


def _ran(rows: Rows) -> list[Mapping]:
    ran = [row for row in rows.values() if row["outcome"] != "skipped"]
    if not ran:
        raise KeyError("nothing ran")
    return ran


GOALS: Mapping[str, Sequence[Goal]] = {
    "attention": FEW_ATTENTION, "batches": FULL_BATCHES, "offload": OFFLOAD,
    "kernels": KERNELS, "opt": (*FULL_BATCHES, *ARRIVALS), "race": RACE, "variants": (*FEW_ATTENTION, *MORE_ATTENTION),
}  # fmt: skip
