"""From token ids to hidden states and from those to logits; the ranks of a group may share the vocabulary."""

import torch

from fastserve.distributed.group import Group
from fastserve.errors import InvalidArgumentError
from fastserve.layers.linear import Linear
from fastserve.layers.weights import WeightSource, read_rows
from fastserve.ops.embedding import embedding


def load_vocabulary(
    source: WeightSource, name: str, shape: tuple[int, int], tokens: range, *, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Return the rows of a matrix [vocab_size, width] for some tokens; those beyond the vocabulary are zeros.

    Args:
        shape: of the whole matrix.
        tokens: ids, as many as the result has rows.
    """
    source.expect(name, shape)
    out = torch.empty((len(tokens), shape[1]), dtype=dtype, device=device)
    read_rows(source, name, out, tokens, shape[0])
    return out


class TokenEmbedding:
    """Looks up token ids.

    Args:
        table: [tokens of this rank, embedding_size]: the same number on every rank, beginning with rank 0's.
        vocab_size: of all ranks together.
    """

    def __init__(self, table: torch.Tensor, vocab_size: int, group: Group) -> None:
        self._table = table
        self._vocab_size = vocab_size
        self._group = group

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return [num_tokens, embedding_size] of token_ids int32 [num_tokens]; see `ops.embedding`."""
        if self._group.size == 1:
            return embedding(token_ids, self._table)
        unknown = (token_ids < 0) | (token_ids >= self._vocab_size)
        if token_ids.device.type == "cpu" and unknown.any():
            found = int(token_ids[unknown][0])
            raise InvalidArgumentError(f"token ids must be between 0 and {self._vocab_size - 1}, got {found}")
        ids = token_ids - self._group.rank * len(self._table)
        elsewhere = (ids < 0) | (ids >= len(self._table))
        hidden = embedding(ids.masked_fill_(elsewhere, 0), self._table).float()
        # x + -0.0 has the bits of x, whichever sign a zero has.
        hidden.masked_fill_(elsewhere.unsqueeze(1), -0.0).masked_fill_(unknown.unsqueeze(1), torch.nan)
        self._group.all_reduce(hidden)
        return hidden.to(self._table.dtype)


class LogitsHead:
    """The output projection.

    Args:
        linear: to the logits of this rank's tokens, as many on every rank.
        vocab_size: of all ranks together; what lies beyond is cut off.
    """

    def __init__(self, linear: Linear, vocab_size: int, group: Group) -> None:
        self._linear = linear
        self._vocab_size = vocab_size
        self._group = group

    def __call__(self, hidden: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits float32 [num_rows, vocab_size] of hidden [num_rows, embedding_size], on every rank."""
        if self._group.size == 1:
            return self._linear(hidden, out=out, out_dtype=torch.float32)
        logits = _gather_columns(self._linear(hidden, out_dtype=torch.float32), self._group)[:, : self._vocab_size]
        return logits.contiguous() if out is None else out.copy_(logits)


def _gather_columns(x: torch.Tensor, group: Group) -> torch.Tensor:
    """The columns of all ranks side by side: [num_rows, width] of each becomes [num_rows, size * width]."""
    num_rows, width = x.shape
    if not num_rows:
        return x.new_empty((0, group.size * width))
    return group.all_gather(x).transpose(0, 1).reshape(num_rows, group.size * width)
