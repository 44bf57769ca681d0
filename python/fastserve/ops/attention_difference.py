"""Description of wrong attention results, for finding the cause without access to the machine."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

TILE_TOKENS = 64  # KV tokens; every kernel walks multiples of it
TILE_QUERIES = 128  # tokens times query heads of a KV head, of a tile of prefill on a GPU
_BITS = {torch.float32: (torch.int32, 8), torch.bfloat16: (torch.int16, 4), torch.float16: (torch.int16, 4)}
_MOST_RANGES = 6


@dataclass(frozen=True, slots=True)
class AttentionDifference:
    """The first value that is wrong, and what all wrong values have in common.

    Attributes:
        row, query, head, element: of the first one; the query is counted within its row.
        kv_head: whose keys and values the head attends.
        seq_len, num_queries: KV tokens and query tokens of the row.
        visible: KV tokens that the query sees.
        block_size: KV tokens of a page.
        query_tile: of the row, for kernels that take 128 rows (query tokens times heads of a KV head) at a time.
        got, expected: values, with their bits as hexadecimal digits.
        count, total: wrong values, and all.
        rows, heads, elements: where wrong values are, as ranges: "0-3, 7".
    """

    row: int
    query: int
    head: int
    element: int
    kv_head: int
    seq_len: int
    num_queries: int
    visible: int
    block_size: int
    query_tile: int
    got: float
    got_bits: str
    expected: float
    expected_bits: str
    count: int
    total: int
    rows: str
    heads: str
    elements: str

    def __str__(self) -> str:
        last = self.visible - 1
        sees = (
            f"sees {self.visible} tokens, the last in page {last // self.block_size} and tile {last // TILE_TOKENS}"
            if self.visible > 0
            else "sees no token"
        )
        return (
            f"{self.count} of {self.total} values; first at row {self.row} (length {self.seq_len}), query {self.query} of"
            f" {self.num_queries} (query tile {self.query_tile}), head {self.head} (KV head {self.kv_head}), element"
            f" {self.element}, which {sees}: got {self.got:.7g} ({self.got_bits}), expected {self.expected:.7g}"
            f" ({self.expected_bits}); all in rows {self.rows}, heads {self.heads}, elements {self.elements}"
        )


def first_difference(
    got: torch.Tensor,
    expected: torch.Tensor,
    wrong: torch.Tensor,
    rows: Sequence[tuple[int, int]],
    *,
    num_kv_heads: int,
    block_size: int,
) -> AttentionDifference:
    """Describe the values that are marked as wrong.

    Args:
        got, expected: `[num_tokens, num_q_heads, head_dim]`, of one dtype.
        wrong: bool, of the same shape; at least one is True.
        rows: KV tokens and query tokens of each row, in the order of the tokens.
        num_kv_heads: heads of the cache.
        block_size: KV tokens of a page.
    """
    places = wrong.nonzero().cpu()
    token, head, element = places[0].tolist()
    row_of_token = torch.tensor([row for row, (_, num_queries) in enumerate(rows) for _ in range(num_queries)])
    row = int(row_of_token[token])
    seq_len, num_queries = rows[row]
    query = token - sum(count for _, count in rows[:row])
    group = wrong.shape[1] // num_kv_heads
    return AttentionDifference(
        row=row,
        query=query,
        head=head,
        element=element,
        kv_head=head // group,
        seq_len=seq_len,
        num_queries=num_queries,
        visible=seq_len - num_queries + query + 1,
        block_size=block_size,
        query_tile=query // max(1, TILE_QUERIES // group),
        got=got[token, head, element].item(),
        got_bits=_bits(got[token, head, element]),
        expected=expected[token, head, element].item(),
        expected_bits=_bits(expected[token, head, element]),
        count=len(places),
        total=wrong.numel(),
        rows=_ranges(row_of_token[places[:, 0]]),
        heads=_ranges(places[:, 1]),
        elements=_ranges(places[:, 2]),
    )


def _bits(value: torch.Tensor) -> str:
    dtype, digits = _BITS[value.dtype]
    return f"0x{value.cpu().view(dtype).item() & (16**digits - 1):0{digits}x}"


def _ranges(numbers: torch.Tensor) -> str:
    """Sorted numbers without repetition: "0-3, 7", the first few ranges."""
    found = torch.unique(numbers).tolist()
    ranges: list[list[int]] = []
    for number in found:
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    words = [f"{low}" if low == high else f"{low}-{high}" for low, high in ranges[:_MOST_RANGES]]
    return ", ".join(words) + (f" and {len(ranges) - _MOST_RANGES} more" if len(ranges) > _MOST_RANGES else "")
