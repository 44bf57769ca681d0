#pragma once

#include <cstdint>

#include "base/forward.h"

namespace fastserve::kernels::cuda {

/// More tokens than any vocabulary has: sums of fixed-point weights over it fit 64 bits.
inline constexpr std::int64_t kMaxVocabSize = std::int64_t{1} << 20;

/// Rows of logits on a GPU, and what one pass over them has found in each block of kVocabBlock tokens.
struct VocabRows {
  const float* logits = nullptr;  // [num_rows, vocab_size], rows logits_stride apart
  std::int64_t logits_stride = 0;
  std::int64_t num_rows = 0;
  std::int64_t vocab_size = 0;
  std::int64_t num_blocks = 0;
  float* maxima = nullptr;               // [num_rows, num_blocks]: largest finite logit, -inf when there is none
  float* masses = nullptr;               // [num_rows, num_blocks]: sum of exp((logit - maximum) * inverse_temperature)
  float* inverse_temperature = nullptr;  // [num_rows], negative where no masses are wanted; null: 1 for every row
  std::int32_t* changed = nullptr;       // [num_rows]: whether changed_logits holds the row; null: none
  float* changed_logits = nullptr;       // [num_rows, vocab_size]
  std::int32_t* marks = nullptr;         // [num_rows, vocab_size]: how often tokens occur, during the penalties
};

/// Queue the pass that fills `maxima`, and the one that fills `masses` and needs them.
void block_maxima_cuda(const VocabRows& rows, void* stream);
void block_masses_cuda(const VocabRows& rows, void* stream);

}  // namespace fastserve::kernels::cuda

namespace fastserve::kernels {

/// The rows of `logits` with the arrays in `workspace`; throws InvalidArgumentError when it is missing or too small.
/// `changes_logits` is whether changed_logits and marks are wanted.
cuda::VocabRows vocab_rows_on_gpu(const TensorView& logits, const TensorView* workspace, bool changes_logits);

}  // namespace fastserve::kernels
