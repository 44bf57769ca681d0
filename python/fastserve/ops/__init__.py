"""Typed wrappers of the kernels in `fastserve._C.kernels`: allocate the output, one call."""

from fastserve.ops.activation import ActivationKind as ActivationKind
from fastserve.ops.activation import activation as activation
from fastserve.ops.attention import attention as attention
from fastserve.ops.attention import attention_workspace as attention_workspace
from fastserve.ops.attention_batch import AttentionBackend as AttentionBackend
from fastserve.ops.attention_batch import AttentionBatch as AttentionBatch
from fastserve.ops.attention_check import check_attention as check_attention
from fastserve.ops.copy_blocks import checksum_blocks as checksum_blocks
from fastserve.ops.copy_blocks import copy_blocks as copy_blocks
from fastserve.ops.embedding import embedding as embedding
from fastserve.ops.linear import PackedWeight as PackedWeight
from fastserve.ops.linear import linear as linear
from fastserve.ops.linear import pack_weight as pack_weight
from fastserve.ops.norm import layer_norm as layer_norm
from fastserve.ops.norm import rms_norm as rms_norm
from fastserve.ops.rope import rope_kv_write as rope_kv_write
from fastserve.ops.sampling import SamplingBatch as SamplingBatch
from fastserve.ops.sampling import TokenLogprobs as TokenLogprobs
from fastserve.ops.sampling import sample as sample
from fastserve.ops.sampling import sampling_workspace_bytes as sampling_workspace_bytes
from fastserve.ops.sampling import token_logprobs as token_logprobs
from fastserve.ops.stream import stream_of as stream_of
