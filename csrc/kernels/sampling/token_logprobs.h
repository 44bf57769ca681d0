#pragma once

#include "base/forward.h"
#include "base/tensor_view.h"
#include "kernels/cuda/vocab_rows.h"

namespace fastserve::kernels {

/// Log-softmax of the logits, read at chosen tokens. A logit that is not finite has no probability.
struct TokenLogprobsInputs {
  const TensorView& logits;               // float32 [num_rows, vocab_size], rows may be strided
  const TensorView& tokens;               // int32 [num_rows]; one outside the vocabulary (-1) gets -inf and rank 0
  const TensorView& token_logprobs;       // out float32 [num_rows]
  const TensorView& ranks;                // out int32 [num_rows]; 1 is the largest, equal logits share the best rank
  const TensorView& top_ids;              // out int32 [num_rows, num_top]; -1 where fewer logits are finite
  const TensorView& top_logprobs;         // out float32 [num_rows, num_top]; -inf there
  const TensorView* workspace = nullptr;  // uint8 [sampling_workspace_bytes] on the GPU; null on the CPU
};

/// The largest num_top on a GPU.
inline constexpr std::int64_t kMaxTopLogprobs = 2048;

/// Checked input of the CUDA kernels; the arrays are those of TokenLogprobsInputs, at addresses that the GPU sees.
struct TokenLogprobsParams {
  cuda::VocabRows rows;
  const std::int32_t* tokens;
  float* token_logprobs;
  std::int32_t* ranks;
  std::int32_t* top_ids;
  float* top_logprobs;
  std::int64_t num_top;
};

/// Throws InvalidArgumentError when a shape or dtype does not fit. With logits on a GPU the work is queued on `stream`
/// (a cudaStream_t as an integer; 0 on the CPU); the other arrays are on the same GPU or in pinned host memory, and
/// num_top is at most kMaxTopLogprobs.
void token_logprobs(const TokenLogprobsInputs& inputs, std::int64_t stream, ThreadPool& pool);

/// Queue the kernels on `stream` (a cudaStream_t); throws DeviceError when a launch fails.
void token_logprobs_cuda(const TokenLogprobsParams& params, void* stream);

}  // namespace fastserve::kernels
