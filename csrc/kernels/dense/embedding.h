#pragma once

#include <cstdint>

#include "base/forward.h"

namespace fastserve::kernels {

/// Checked input of the copy of rows; strides are in bytes.
struct EmbeddingParams {
  char* out;                // [num_tokens]
  const std::int32_t* ids;  // [num_tokens]
  const char* weight;       // [num_rows]
  std::int64_t row_bytes;
  std::int64_t out_stride_bytes;
  std::int64_t weight_stride_bytes;
  std::int64_t num_tokens;
  std::int64_t num_rows;
};

/// out[t] = weight[ids[t]]: a copy of rows, so there is one version for every instruction set.
///
/// ids is int32 [T], weight is [V, H] and out is [T, H] of one model dtype, dense in the last dimension. Throws
/// InvalidArgumentError when they do not fit or an id is outside [0, V), before anything is written. On a GPU the copy
/// is queued on `stream` (a cudaStream_t as an integer; 0 on the CPU), and the ids cannot be checked: the row of an id
/// that is outside becomes NaN.
void embedding(const TensorView& out, const TensorView& ids, const TensorView& weight, std::int64_t stream,
               ThreadPool& pool);

/// Queue the kernel on `stream` (a cudaStream_t); throws DeviceError when the launch fails.
void embedding_cuda(const EmbeddingParams& params, void* stream);

}  // namespace fastserve::kernels
