#pragma once

#include "base/tensor_view.h"

namespace fastserve {
class ThreadPool;
}

namespace fastserve::kernels {

/// Temperatures below this are greedy.
inline constexpr float kGreedyTemperature = 1e-5f;

/// One entry per row in every array; token lists are ragged: row r has tokens[start[r] .. start[r + 1]).
struct SamplingInputs {
  const TensorView& logits;              // float32 [num_rows, vocab_size], rows may be strided; not changed
  const TensorView& temperature;         // float32 [num_rows], >= 0; 0 is greedy
  const TensorView& top_k;               // int32 [num_rows]; 0 or less is off
  const TensorView& top_p;               // float32 [num_rows], 0..1; 1 is off
  const TensorView& min_p;               // float32 [num_rows], 0..1; 0 is off
  const TensorView& repetition_penalty;  // float32 [num_rows], > 0; 1 is off
  const TensorView& presence_penalty;    // float32 [num_rows]; 0 is off
  const TensorView& frequency_penalty;   // float32 [num_rows]; 0 is off
  const TensorView& seeds;               // int64 [num_rows]: the bits of an unsigned seed
  const TensorView& counters;            // int64 [num_rows]: position of the token to draw
  const TensorView& history_start;       // int32 [num_rows + 1]
  const TensorView& history_tokens;      // int32: prompt, then output
  const TensorView& history_prompt_len;  // int32 [num_rows]: how many of them are prompt
  const TensorView& banned_start;        // int32 [num_rows + 1]
  const TensorView& banned_tokens;       // int32
  const TensorView& out;                 // int32 [num_rows]
};

/// Choose a token per row; -1 where no logit is finite. In this order: penalties, bans, temperature, top_k, top_p,
/// min_p, draw. Tokens with equal logits are ordered by id, so greedy is top_k 1 and each filter keeps an exact set.
/// The number drawn is a function of (seed, counter) alone. Throws InvalidArgumentError when a shape, dtype or value
/// does not fit.
void sample(const SamplingInputs& inputs, std::int64_t stream, ThreadPool& pool);

}  // namespace fastserve::kernels
