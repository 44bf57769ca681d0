#pragma once

#include "base/tensor_view.h"

namespace fastserve {
class ThreadPool;
}

namespace fastserve::kernels {

/// Log-softmax of the logits, read at chosen tokens. A logit that is not finite has no probability.
struct TokenLogprobsInputs {
  const TensorView& logits;          // float32 [num_rows, vocab_size], rows may be strided
  const TensorView& tokens;          // int32 [num_rows]; one outside the vocabulary (-1) gets -inf and rank 0
  const TensorView& token_logprobs;  // out float32 [num_rows]
  const TensorView& ranks;           // out int32 [num_rows]; 1 is the largest, equal logits share the best rank
  const TensorView& top_ids;         // out int32 [num_rows, num_top]; -1 where fewer logits are finite
  const TensorView& top_logprobs;    // out float32 [num_rows, num_top]; -inf there
};

/// Throws InvalidArgumentError when a shape or dtype does not fit.
void token_logprobs(const TokenLogprobsInputs& inputs, std::int64_t stream, ThreadPool& pool);

}  // namespace fastserve::kernels
