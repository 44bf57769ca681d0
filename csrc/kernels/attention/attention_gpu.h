#pragma once

#include <cstdint>

#include "kernels/attention/attention.h"

// Attention on a GPU, behind attention.cc. The index arrays lie on the device, so nothing here has seen their values:
// a length beyond max_seq_len is cut to it, other values that do not fit read or write where they should not.

namespace fastserve::kernels {

inline constexpr std::int64_t kAttentionCounters = 65536;  // rows x units; first in the workspace, whatever the shape

/// One launch of a kernel over the rows [params.row_begin, params.row_end). Pointers are to memory of one GPU.
struct AttentionLaunch {
  AttentionParams params;
  std::int64_t num_tokens = 0;  // dimension 0 of q
  std::int64_t num_blocks = 0;  // of the cache
  int max_seq_len = 0;
  int block_shift = 0;                // log2 of the block size
  int max_splits = 1;                 // of a row, see decode_max_splits
  std::uint32_t* counters = nullptr;  // [kAttentionCounters], all 0 before and after a launch
  float* partial_values = nullptr;    // [rows, num_q_heads, max_splits, head_dim]
  float* partial_state = nullptr;     // [rows, num_q_heads, max_splits, 2]: maximum and sum of the weights
};

/// Queue the rows of `params`, which fit the shapes of `inputs`, on the stream of `inputs`.
/// Throws InvalidArgumentError when max_seq_len or the workspace do not fit, DeviceError when a launch fails.
void attention_decode_on_gpu(const AttentionParams& params, const AttentionInputs& inputs);
void attention_prefill_on_gpu(const AttentionParams& params, const AttentionInputs& inputs);

/// Whether the tensor-core kernels take this: 16-bit dtype, head_dim 64, 80, 96, 128 or 256, blocks of a multiple of
/// 16 tokens, heads aligned to 16 bytes. The naive kernel takes everything.
bool attention_fits_tensor_cores(const AttentionParams& params);

/// Whether the Hopper prefill kernel takes this: what fits tensor cores, with at most 128 query heads per KV head, a
/// positive scale and positive strides of q.
bool attention_fits_hopper(const AttentionParams& params);

/// Whether the current device runs the Hopper kernels: compute capability 9.0, a driver that makes tensor maps, and a
/// build for sm_90a.
bool attention_hopper_available();

/// How a kernel sits on the current device.
struct KernelResidency {
  const char* kernel = "";
  int threads = 0;         // of a thread block
  int registers = 0;       // of a thread
  int local_bytes = 0;     // of a thread; spilled registers, where there are any
  int shared_bytes = 0;    // of a thread block
  int resident_ctas = 0;   // thread blocks that the device runs at once
  int binary_version = 0;  // 90: machine code for compute capability 9.0
};

// Queue one kernel on `stream`, a cudaStream_t; throw DeviceError when the launch fails. decode and prefill are for
// what fits tensor cores.
void attention_naive_cuda(const AttentionLaunch& launch, void* stream);
void attention_decode_cuda(const AttentionLaunch& launch, void* stream);
void attention_prefill_cuda(const AttentionLaunch& launch, void* stream);
/// Uses the first two counters; for what fits Hopper, where it is available.
void attention_hopper_cuda(const AttentionLaunch& launch, void* stream);

// The same kernels, not launched; throw InvalidArgumentError where the device has too little shared memory.
KernelResidency attention_decode_residency(const AttentionParams& params);
KernelResidency attention_prefill_residency(const AttentionParams& params);
KernelResidency attention_hopper_residency(const AttentionParams& params);

}  // namespace fastserve::kernels
