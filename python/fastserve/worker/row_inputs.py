"""The rows of a step as host arrays: those of a plan, dummy rows for measurements, or padded for a captured graph."""

from dataclasses import dataclass

import numpy as np

from fastserve._C.sched import StepPlan


@dataclass(frozen=True, slots=True)
class RowInputs:
    """T tokens in R rows, of which the first `num_decode_rows` have one token each.

    Attributes:
        token_ids: int32[T]; whatever where the token comes from the step before.
        token_sources: int32[T]: the sampling entry of the step before that is this token, else -1.
        positions: int32[T]. slots: int64[T], -1 = write no KV.
        query_start: int32[R + 1]. seq_lens: int32[R], 0 = an empty row. block_start: int32[R + 1]. block_ids: int32.
        logit_rows: int64[S], tokens whose logits are wanted, ascending.
    """

    token_ids: np.ndarray
    token_sources: np.ndarray
    positions: np.ndarray
    slots: np.ndarray
    query_start: np.ndarray
    seq_lens: np.ndarray
    block_start: np.ndarray
    block_ids: np.ndarray
    logit_rows: np.ndarray
    num_decode_rows: int

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.seq_lens)

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.token_ids)

    @property
    def is_plain_decode(self) -> bool:
        """Every row has one token, whose logits are wanted."""
        return self.num_rows == self.num_decode_rows == len(self.logit_rows)


def rows_of_plan(plan: StepPlan) -> RowInputs:
    """The rows of a plan; borrows its arrays."""
    token_sources = np.full(plan.num_tokens, -1, np.int32)
    token_sources[plan.query_start[:-1]] = plan.token_sources
    return RowInputs(
        token_ids=plan.token_ids,
        token_sources=token_sources,
        positions=plan.positions,
        slots=plan.slots,
        query_start=plan.query_start,
        seq_lens=plan.seq_lens,
        block_start=plan.block_start,
        block_ids=plan.block_ids,
        logit_rows=plan.query_start[1:][plan.sample_rows].astype(np.int64) - 1,
        num_decode_rows=plan.num_decode_rows,
    )


def dummy_rows(
    query_lens: list[int], seq_lens: list[int], *, num_decode_rows: int, num_blocks: int, block_size: int,
    vocab_size: int, write_kv: bool = True,
) -> RowInputs:  # fmt: skip
    """Rows over the blocks of the pool in turn, for measurements; rows may share blocks.

    Args:
        query_lens, seq_lens: tokens of each row in this step and in all, decodes first.
        write_kv: False leaves the pool as it is.
    """
    blocks_of_row = [-(-n // block_size) for n in seq_lens]
    block_ids = np.arange(sum(blocks_of_row), dtype=np.int32) % num_blocks
    block_start = np.concatenate([[0], np.cumsum(blocks_of_row)]).astype(np.int32)
    positions = np.concatenate([np.arange(s - n, s) for n, s in zip(query_lens, seq_lens, strict=True)])
    positions = positions.astype(np.int32)
    row_of_token = np.repeat(np.arange(len(query_lens)), query_lens)
    slots = block_ids[block_start[row_of_token] + positions // block_size].astype(np.int64)
    slots = slots * block_size + positions % block_size
    query_start = np.concatenate([[0], np.cumsum(query_lens)]).astype(np.int32)
    return RowInputs(
        token_ids=np.arange(len(positions), dtype=np.int32) % vocab_size,
        token_sources=np.full(len(positions), -1, np.int32),
        positions=positions,
        slots=slots if write_kv else np.full_like(slots, -1),
        query_start=query_start,
        seq_lens=np.array(seq_lens, np.int32),
        block_start=block_start,
        block_ids=block_ids,
        logit_rows=query_start[1:].astype(np.int64) - 1,
        num_decode_rows=num_decode_rows,
    )


def control_row(block_size: int) -> RowInputs:
    """A decode of one token that belongs to no request and writes no KV."""
    return dummy_rows([1], [1], num_decode_rows=1, num_blocks=1, block_size=block_size, vocab_size=1, write_kv=False)


def padded_decode(rows: RowInputs, num_rows: int) -> RowInputs:
    """The same decodes and empty rows behind them, `num_rows` in all: token 0, no KV, no blocks."""
    missing = num_rows - rows.num_rows

    def pad(values: np.ndarray, value: int) -> np.ndarray:
        return np.concatenate([values, np.full(missing, value, values.dtype)])

    return RowInputs(
        token_ids=pad(rows.token_ids, 0),
        token_sources=pad(rows.token_sources, -1),
        positions=pad(rows.positions, 0),
        slots=pad(rows.slots, -1),
        query_start=np.arange(num_rows + 1, dtype=np.int32),
        seq_lens=pad(rows.seq_lens, 0),
        block_start=pad(rows.block_start, int(rows.block_start[-1])),
        block_ids=rows.block_ids,
        logit_rows=np.arange(num_rows, dtype=np.int64),
        num_decode_rows=num_rows,
    )


def empty_decode(num_rows: int) -> RowInputs:
    """`num_rows` rows with nothing in them."""
    none32 = np.empty(0, np.int32)
    start = np.zeros(1, np.int32)
    nothing = RowInputs(none32, none32, none32, np.empty(0, np.int64), start, none32, start, none32,
                        np.empty(0, np.int64), 0)  # fmt: skip
    return padded_decode(nothing, num_rows)
