"""One decoder for every family: embedding, layers, final norm, output projection."""

import torch

from fastserve.layers.attention import HeadBuffers, SelfAttention
from fastserve.layers.context import ForwardContext
from fastserve.layers.linear import Linear
from fastserve.layers.mlp import Mlp
from fastserve.layers.norm import Norm
from fastserve.models.spec import DecoderSpec
from fastserve.ops.embedding import embedding


class DecoderLayer:
    """Attention and MLP around a residual stream; `pre_norm` says whether each has its norm before or after it.

    The stream is handed over as (residual, update), to be added: the next norm adds them in passing. After a layer with
    norms behind its halves nothing is left to add, and update is None.
    """

    def __init__(
        self,
        attention: SelfAttention,
        attention_out: Linear,
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
    """A model on one device. Build it with `build_decoder`.

    Args:
        embedding_table: [vocab_size, embedding_size].
        position_table: learned positions, row p for position p, [max_model_len, hidden_size]; None = rotary.
        project_in: embedding_size -> hidden_size; None when they are equal. project_out is its counterpart.
        final_norm: None when every layer ends in a norm.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        layers: list[DecoderLayer],
        *,
        embedding_table: torch.Tensor,
        position_table: torch.Tensor | None,
        project_in: Linear | None,
        project_out: Linear | None,
        final_norm: Norm | None,
        lm_head: Linear,
    ) -> None:
        self.spec = spec
        self.dtype = embedding_table.dtype
        self.device = embedding_table.device
        self._layers = layers
        self._embedding_table = embedding_table
        self._position_table = position_table
        self._project_in = project_in
        self._project_out = project_out
        self._final_norm = final_norm
        self._lm_head = lm_head

    @torch.inference_mode()
    def forward(self, token_ids: torch.Tensor, ctx: ForwardContext, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Run one batch: write the KV of its tokens and return the logits of the wanted ones.

        Args:
            token_ids: int32 [T], each below vocab_size.
            ctx: the batch; see `ForwardContext`.
            out: where to write the logits; a new tensor by default.
        Returns:
            float32 [S, vocab_size], S = len(ctx.logit_rows), in the order of `ctx.logit_rows`.
        """
        residual, update = self._embed(token_ids, ctx)
        # Ascending rows without repetition: as many as tokens means all of them.
        rows = ctx.logit_rows if len(ctx.logit_rows) != len(token_ids) else None
        buffers = self._layers[0].attention.buffers(len(token_ids), residual)
        for layer in self._layers[:-1]:
            residual, update = layer(residual, update, ctx, buffers)
        residual, update = self._layers[-1](residual, update, ctx, buffers, rows)
        hidden = residual
        if self._final_norm is not None:
            assert update is not None, "a decoder with a final norm has layers that norm first"
            hidden = self._final_norm(update, residual=residual)
        if self._project_out is not None:
            hidden = self._project_out(hidden)
        return self._lm_head(hidden, out=out, out_dtype=torch.float32)

    def _embed(self, token_ids: torch.Tensor, ctx: ForwardContext) -> tuple[torch.Tensor, torch.Tensor | None]:
        hidden = embedding(token_ids, self._embedding_table)
        if self._project_in is not None:
            hidden = self._project_in(hidden)
        if self._position_table is None:
            return hidden, None
        positions = embedding(ctx.positions, self._position_table)
        if self.spec.pre_norm:
            return hidden, positions
        return hidden.add_(positions), None
