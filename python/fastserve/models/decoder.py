"""One decoder for every family: an end before the layers, the layers, and an end after them."""

from collections.abc import Iterator

import torch

from fastserve.layers.attention import HeadBuffers, SelfAttention
from fastserve.layers.context import ForwardContext
from fastserve.layers.linear import Projection
from fastserve.layers.mlp import Mlp
from fastserve.layers.norm import Norm
from fastserve.models.ends import InputEnd, OutputEnd
from fastserve.models.spec import DecoderSpec


class DecoderLayer:
    """Attention and MLP around a residual stream; `pre_norm` says whether each has its norm before or after it.

    The stream is handed over as (residual, update), to be added: the next norm adds them in passing. After a layer with
    norms behind its halves nothing is left to add, and update is None.
    """

    def __init__(
        self,
        attention: SelfAttention,
        attention_out: Projection,
        mlp: Mlp,
        *,
        attention_norm: Norm,
        mlp_norm: Norm,
        pre_norm: bool,
    ) -> None:
        self.attention = attention
        self._attention_out = attention_out
        self._mlp = mlp
        self._attention_norm = attention_norm
        self._mlp_norm = mlp_norm
        self._pre_norm = pre_norm

    def __call__(
        self,
        residual: torch.Tensor,
        update: torch.Tensor | None,
        ctx: ForwardContext,
        buffers: HeadBuffers,
        rows: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the layer; residual and update [num_tokens, hidden_size] are overwritten.

        Args:
            rows: int64, the tokens that anyone reads after this layer; None = all. The others still write their KV.
        """
        if not self._pre_norm:
            x = residual
        elif update is None:
            x = self._attention_norm(residual)
        else:
            x = self._attention_norm(update, residual=residual)
        heads = self.attention(x, ctx, buffers)
        if rows is not None:
            heads, residual = heads.index_select(0, rows), residual.index_select(0, rows)
        update = self._attention_out(heads)
        if self._pre_norm:
            return residual, self._mlp(self._mlp_norm(update, residual=residual), out=update)
        x = self._attention_norm(update, residual=residual)
        return self._mlp_norm(self._mlp(x, out=update), residual=x), None


class Decoder:
    """A model on one device, or one rank's part of it. Build it with `build_decoder`.

    Args:
        spec: as this rank has it; see `local_spec`.
        dtype: of weights, activations and KV.
        input_end: None where a stage before has it: the hidden states are handed in.
        output_end: None where a stage behind has it: the hidden states are handed out.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        layers: list[DecoderLayer],
        *,
        dtype: torch.dtype,
        device: torch.device,
        input_end: InputEnd | None,
        output_end: OutputEnd | None,
    ) -> None:
        self.spec = spec
        self.dtype = dtype
        self.device = device
        self._layers = layers
        self._input_end = input_end
        self._output_end = output_end

    @torch.inference_mode()
    def forward(
        self,
        token_ids: torch.Tensor,
        ctx: ForwardContext,
        *,
        hidden: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Run one batch: write the KV of its tokens and return the logits of the wanted ones.

        Args:
            token_ids: int32 [T], each below vocab_size.
            ctx: the batch; see `ForwardContext`.
            hidden: [T, hidden_size], what the stage before returned; overwritten. None on the first stage.
            out: where to write the logits; a new tensor by default.
        Returns:
            float32 [S, vocab_size], S = len(ctx.logit_rows), in the order of `ctx.logit_rows`; of a stage that is not
            the last one the hidden states [T, hidden_size] for the next.
        """
        residual, update = self._run_layers(token_ids, ctx, hidden)
        if self._output_end is not None:
            return self._output_end(residual, update, out=out)
        return residual if update is None else residual.add_(update)

    @torch.inference_mode()
    def forward_in_pieces(
        self, token_ids: torch.Tensor, ctx: ForwardContext, *, hidden: torch.Tensor | None = None, piece_rows: int
    ) -> Iterator[torch.Tensor]:
        """As `forward` of the last stage, with the logits of at most `piece_rows` wanted tokens at a time, in order."""
        assert self._output_end is not None, "a stage without an output end has no logits"
        residual, update = self._run_layers(token_ids, ctx, hidden)
        for first in range(0, len(ctx.logit_rows), piece_rows):
            rows = slice(first, first + piece_rows)
            yield self._output_end(residual[rows], None if update is None else update[rows])

    def _run_layers(
        self, token_ids: torch.Tensor, ctx: ForwardContext, hidden: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The residual stream behind the layers; where the output end follows, of the wanted tokens alone."""
        if self._input_end is not None:
            residual, update = self._input_end(token_ids, ctx)
        else:
            assert hidden is not None, "a stage without an embedding continues from the one before"
            residual, update = hidden, None
        # Ascending rows without repetition: as many as tokens means all of them.
        rows = ctx.logit_rows if len(ctx.logit_rows) != len(token_ids) and self._output_end is not None else None
        buffers = self._layers[0].attention.buffers(len(token_ids), residual)
        for layer in self._layers[:-1]:
            residual, update = layer(residual, update, ctx, buffers)
        return self._layers[-1](residual, update, ctx, buffers, rows)
