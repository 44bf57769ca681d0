"""
Kernels on borrowed tensors (DLPack); outputs are passed in.
"""
from __future__ import annotations
import collections.abc
import numpy
import torch
import typing
__all__: list[str] = ['activation', 'attention_decode', 'attention_hopper_available', 'attention_prefill', 'attention_workspace_bytes', 'checksum_blocks', 'copy_blocks', 'embedding', 'layer_norm', 'linear', 'linear_bf16_input_unit', 'linear_panel_width', 'mask_logits', 'pack_linear_weight', 'read_bandwidth', 'rms_norm', 'rope_kv_write', 'sample', 'sampling_workspace_bytes', 'token_logprobs']
def activation(out: numpy.ndarray | torch.Tensor, x: numpy.ndarray | torch.Tensor, kind: str, gated: bool, *, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    out = act(x), or act(x[:, :I]) * x[:, I:] when gated; kind is silu, gelu, gelu_tanh or relu.
    """
def attention_decode(q: numpy.ndarray | torch.Tensor, kv_cache: numpy.ndarray | torch.Tensor, query_start: numpy.ndarray | torch.Tensor, seq_lens: numpy.ndarray | torch.Tensor, block_start: numpy.ndarray | torch.Tensor, block_ids: numpy.ndarray | torch.Tensor, out: numpy.ndarray | torch.Tensor, *, row_begin: typing.SupportsInt | typing.SupportsIndex, row_end: typing.SupportsInt | typing.SupportsIndex, layer: typing.SupportsInt | typing.SupportsIndex, scale: typing.SupportsFloat | typing.SupportsIndex, workspace: numpy.ndarray | torch.Tensor | None = None, max_seq_len: typing.SupportsInt | typing.SupportsIndex = 0, backend: str = 'native', stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    Paged attention of rows with one query token each; see kernels/attention/attention.h.
    """
def attention_hopper_available() -> bool:
    """
    Whether the current GPU runs the attention kernels for Hopper; see kernels/attention/attention_gpu.h.
    """
def attention_prefill(q: numpy.ndarray | torch.Tensor, kv_cache: numpy.ndarray | torch.Tensor, query_start: numpy.ndarray | torch.Tensor, seq_lens: numpy.ndarray | torch.Tensor, block_start: numpy.ndarray | torch.Tensor, block_ids: numpy.ndarray | torch.Tensor, out: numpy.ndarray | torch.Tensor, *, row_begin: typing.SupportsInt | typing.SupportsIndex, row_end: typing.SupportsInt | typing.SupportsIndex, layer: typing.SupportsInt | typing.SupportsIndex, scale: typing.SupportsFloat | typing.SupportsIndex, workspace: numpy.ndarray | torch.Tensor | None = None, max_seq_len: typing.SupportsInt | typing.SupportsIndex = 0, backend: str = 'native', stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    Paged causal attention of rows with any number of query tokens; see kernels/attention/attention.h.
    """
def attention_workspace_bytes(num_rows: typing.SupportsInt | typing.SupportsIndex, num_q_heads: typing.SupportsInt | typing.SupportsIndex, head_dim: typing.SupportsInt | typing.SupportsIndex, max_seq_len: typing.SupportsInt | typing.SupportsIndex) -> int:
    """
    Bytes of the workspace of attention on a GPU; see kernels/attention/attention.h.
    """
def checksum_blocks(cache: numpy.ndarray | torch.Tensor, ids: numpy.ndarray | torch.Tensor, out: numpy.ndarray | torch.Tensor, *, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    A 64-bit hash of the bytes of each block; see kernels/memory/copy_blocks.h.
    """
def copy_blocks(src: numpy.ndarray | torch.Tensor, dst: numpy.ndarray | torch.Tensor, src_ids: numpy.ndarray | torch.Tensor, dst_ids: numpy.ndarray | torch.Tensor, *, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    Copy whole blocks; see kernels/memory/copy_blocks.h.
    """
def embedding(out: numpy.ndarray | torch.Tensor, ids: numpy.ndarray | torch.Tensor, weight: numpy.ndarray | torch.Tensor, *, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    out[t] = weight[ids[t]]; ids are int32.
    """
def layer_norm(out: numpy.ndarray | torch.Tensor, x: numpy.ndarray | torch.Tensor, weight: numpy.ndarray | torch.Tensor, bias: numpy.ndarray | torch.Tensor, eps: typing.SupportsFloat | typing.SupportsIndex, residual: numpy.ndarray | torch.Tensor | None = None, *, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    LayerNorm of the rows of x [T, H], or of residual += x.
    """
def linear(out: numpy.ndarray | torch.Tensor, x: numpy.ndarray | torch.Tensor, packed: numpy.ndarray | torch.Tensor, bias: numpy.ndarray | torch.Tensor | None = None, num_segments: typing.SupportsInt | typing.SupportsIndex = 1) -> None:
    """
    out [T, N] = x [T, K] @ weight.T + bias; a row of out does not depend on the other rows. The inputs are summed in num_segments (1, 2, 4, 8) segments, and these added up as a binary tree.
    """
def mask_logits(logits: numpy.ndarray | torch.Tensor, masks: numpy.ndarray | torch.Tensor, rows: numpy.ndarray | torch.Tensor) -> None:
    """
    Set logits to -inf where a mask says so; see kernels/sampling/token_mask.h.
    """
def pack_linear_weight(packed: numpy.ndarray | torch.Tensor, weight: numpy.ndarray | torch.Tensor) -> None:
    """
    Copy weight [N, K] into packed [ceil(N / 32), K, 32], the layout that `linear` reads; bf16: K rounded up to a multiple of linear_bf16_input_unit.
    """
def read_bandwidth(x: numpy.ndarray | torch.Tensor, out: numpy.ndarray | torch.Tensor, *, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    Read x once, out [n] = sums of n shares of it: the roof of kernels that are bound by reading memory (for benchmarks).
    """
def rms_norm(out: numpy.ndarray | torch.Tensor, x: numpy.ndarray | torch.Tensor, weight: numpy.ndarray | torch.Tensor, eps: typing.SupportsFloat | typing.SupportsIndex, residual: numpy.ndarray | torch.Tensor | None = None, *, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    RMSNorm of the rows of x [T, H], or of residual += x.
    """
def rope_kv_write(q: numpy.ndarray | torch.Tensor, k: numpy.ndarray | torch.Tensor, v: numpy.ndarray | torch.Tensor, positions: numpy.ndarray | torch.Tensor, cos_sin: numpy.ndarray | torch.Tensor | None, kv_cache: numpy.ndarray | torch.Tensor, slots: numpy.ndarray | torch.Tensor, layer: typing.SupportsInt | typing.SupportsIndex, interleaved: bool = False, q_norm: numpy.ndarray | torch.Tensor | None = None, k_norm: numpy.ndarray | torch.Tensor | None = None, norm_eps: typing.SupportsFloat | typing.SupportsIndex = 0.0, *, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    Normalise and rotate q in place, k on its way into kv_cache; write v into kv_cache.
    """
def sample(logits: numpy.ndarray | torch.Tensor, settings: typing.Annotated[collections.abc.Sequence[numpy.ndarray | torch.Tensor], "FixedSize(7)"], seeds: numpy.ndarray | torch.Tensor, counters: numpy.ndarray | torch.Tensor, history_start: numpy.ndarray | torch.Tensor, history_tokens: numpy.ndarray | torch.Tensor, history_prompt_len: numpy.ndarray | torch.Tensor, banned_start: numpy.ndarray | torch.Tensor, banned_tokens: numpy.ndarray | torch.Tensor, bias_start: numpy.ndarray | torch.Tensor, bias_tokens: numpy.ndarray | torch.Tensor, bias_values: numpy.ndarray | torch.Tensor, only_biased: numpy.ndarray | torch.Tensor, out: numpy.ndarray | torch.Tensor, *, workspace: numpy.ndarray | torch.Tensor | None = None, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    Choose a token per row of logits; settings are arrays in the order of Setting, see kernels/sampling/sampling.h.
    """
def sampling_workspace_bytes(num_rows: typing.SupportsInt | typing.SupportsIndex, vocab_size: typing.SupportsInt | typing.SupportsIndex, changes_logits: bool) -> int:
    """
    Bytes of GPU memory that sample and token_logprobs need as workspace.
    """
def token_logprobs(logits: numpy.ndarray | torch.Tensor, tokens: numpy.ndarray | torch.Tensor, token_logprobs: numpy.ndarray | torch.Tensor, ranks: numpy.ndarray | torch.Tensor, top_ids: numpy.ndarray | torch.Tensor, top_logprobs: numpy.ndarray | torch.Tensor, *, workspace: numpy.ndarray | torch.Tensor | None = None, stream: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    Log-softmax of the logits at chosen tokens, ranks, largest ones; see kernels/sampling/token_logprobs.h.
    """
linear_bf16_input_unit: int = 32
linear_panel_width: int = 32
