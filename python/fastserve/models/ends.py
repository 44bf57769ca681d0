"""The parts before and after the layers of a decoder."""

import torch

from fastserve.layers.context import ForwardContext
from fastserve.layers.linear import Linear
from fastserve.layers.norm import Norm
from fastserve.layers.vocabulary import LogitsHead, TokenEmbedding
from fastserve.ops.embedding import embedding


class InputEnd:
    """From token ids to the residual stream.

    Args:
        position_table: learned positions, row p for position p, [max_model_len, hidden_size]; None = rotary.
        project: embedding_size -> hidden_size; None when they are equal.
        pre_norm: see `DecoderSpec`.
    """

    def __init__(
        self,
        tokens: TokenEmbedding,
        *,
        position_table: torch.Tensor | None,
        project: Linear | None,
        pre_norm: bool,
    ) -> None:
        self._tokens = tokens
        self._position_table = position_table
        self._project = project
        self._pre_norm = pre_norm

    def __call__(self, token_ids: torch.Tensor, ctx: ForwardContext) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return (residual, update) [num_tokens, hidden_size]; see `DecoderLayer`."""
        hidden = self._tokens(token_ids)
        if self._project is not None:
            hidden = self._project(hidden)
        if self._position_table is None:
            return hidden, None
        positions = embedding(ctx.positions, self._position_table)
        if self._pre_norm:
            return hidden, positions
        return hidden.add_(positions), None


class OutputEnd:
    """From the residual stream to logits.

    Args:
        norm: None when every layer ends in one.
        project: hidden_size -> embedding_size; None when they are equal.
    """

    def __init__(self, head: LogitsHead, *, norm: Norm | None, project: Linear | None) -> None:
        self._norm = norm
        self._project = project
        self._head = head

    def __call__(
        self, residual: torch.Tensor, update: torch.Tensor | None, *, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits float32 [num_rows, vocab_size]."""
        hidden = residual
        if self._norm is not None:
            assert update is not None, "a decoder with a final norm has layers that norm first"
            hidden = self._norm(update, residual=residual)
        if self._project is not None:
            hidden = self._project(hidden)
        return self._head(hidden, out=out)
