#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/forward.h"
#include "base/tensor_view.h"
#include "kernels/cuda/vocab_rows.h"
#include "kernels/simt.h"

namespace fastserve::kernels {

/// Temperatures below this are greedy.
inline constexpr float kGreedyTemperature = 1e-5f;

/// The value in place of a token that could not be chosen, and why: the row fails, the others are not affected.
inline constexpr std::int32_t kNoFiniteLogit = -1;
inline constexpr std::int32_t kBadSettings = -2;  // a number out of the range that SamplingInputs gives
inline constexpr std::int32_t kBadLists =
    -3;  // a token of the history outside the vocabulary, or starts that do not fit

/// Whether the numbers of a row are in range; NaN never is.
FS_HOST_DEVICE inline bool settings_fit(float temperature, float top_p, float min_p, float repetition_penalty,
                                        float presence_penalty, float frequency_penalty) {
  constexpr float kLargest = 0x1.fffffep127f;
  return temperature >= 0.0f && temperature <= kLargest && top_p >= 0.0f && top_p <= 1.0f && min_p >= 0.0f &&
         min_p <= 1.0f && repetition_penalty > 0.0f && repetition_penalty <= kLargest &&
         presence_penalty >= -kLargest && presence_penalty <= kLargest && frequency_penalty >= -kLargest &&
         frequency_penalty <= kLargest;
}

/// The numbers of a request that the sampler follows, in the order in which their arrays are given.
enum Setting : std::size_t {
  kTemperature,        // float32, >= 0; 0 is greedy
  kTopK,               // int32; 0 or less is off
  kTopP,               // float32, 0..1; 1 is off
  kMinP,               // float32, 0..1; 0 is off
  kRepetitionPenalty,  // float32, > 0; 1 is off
  kPresencePenalty,    // float32; 0 is off
  kFrequencyPenalty,   // float32; 0 is off
  kNumSettings
};
using SamplingSettings = std::array<TensorView, kNumSettings>;

/// One entry per row in every array; token lists are ragged: row r has tokens[start[r] .. start[r + 1]).
struct SamplingInputs {
  const TensorView& logits;               // float32 [num_rows, vocab_size], rows may be strided; not changed
  const SamplingSettings& settings;       // each [num_rows], see Setting
  const TensorView& seeds;                // int64 [num_rows]: the bits of an unsigned seed
  const TensorView& counters;             // int64 [num_rows]: position of the token to draw
  const TensorView& history_start;        // int32 [num_rows + 1]
  const TensorView& history_tokens;       // int32: prompt, then output
  const TensorView& history_prompt_len;   // int32 [num_rows]: how many of them are prompt
  const TensorView& banned_start;         // int32 [num_rows + 1]
  const TensorView& banned_tokens;        // int32; after entries ~id: banned where the output ends in those
  const TensorView& bias_start;           // int32 [num_rows + 1]
  const TensorView& bias_tokens;          // int32, each token of a row once
  const TensorView& bias_values;          // float32, one per token: added to its logit
  const TensorView& only_biased;          // int32 [num_rows]; not 0: a row with biased tokens has no others
  const TensorView& out;                  // int32 [num_rows]
  const TensorView* workspace = nullptr;  // uint8 [sampling_workspace_bytes] on the GPU; null on the CPU
};

/// Checked input of the CUDA kernels; the arrays are those of SamplingInputs, at addresses that the GPU sees.
struct SamplingParams {
  cuda::VocabRows rows;
  const float* temperature;
  const std::int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const float* repetition_penalty;
  const float* presence_penalty;
  const float* frequency_penalty;
  const std::int64_t* seeds;
  const std::int64_t* counters;
  const std::int32_t* history_start;
  const std::int32_t* history_tokens;
  const std::int32_t* history_prompt_len;
  const std::int32_t* banned_start;
  const std::int32_t* banned_tokens;
  const std::int32_t* bias_start;
  const std::int32_t* bias_tokens;
  const float* bias_values;
  const std::int32_t* only_biased;
  std::int32_t* out;
  std::int64_t num_history;  // entries of history_tokens
  std::int64_t num_banned;
  std::int64_t num_biased;
};

/// Choose a token per row. In this order: biases, penalties, bans, temperature, top_k, top_p, min_p, draw. Tokens with
/// equal logits are ordered by id, so greedy is top_k 1 and each filter keeps an exact set. The number drawn is a
/// function of (seed, counter) alone. A row that cannot be sampled gets one of the negative numbers above; biases and
/// bans of tokens outside the vocabulary have no effect. Throws InvalidArgumentError when a shape or dtype does not fit.
///
/// With logits on a GPU the work is queued on `stream` (a cudaStream_t as an integer; 0 on the CPU). Every other array
/// is on the same GPU or in pinned host memory, so `out` may be read on the host once an event after this is reached.
/// A token of the history outside the vocabulary is left out there. The choice is that of the CPU kernels, except where
/// the random number falls within rounding of the border between two tokens.
void sample(const SamplingInputs& inputs, std::int64_t stream, ThreadPool& pool);

/// Bytes that `sample` and `token_logprobs` need on the GPU, aligned to 16; the contents need not be kept between
/// calls. `changes_logits` is whether any row may have history, banned or biased tokens, which takes 8 bytes per logit.
std::int64_t sampling_workspace_bytes(std::int64_t num_rows, std::int64_t vocab_size, bool changes_logits);

/// Queue the kernels on `stream` (a cudaStream_t); throws DeviceError when a launch fails.
void sample_cuda(const SamplingParams& params, void* stream);

}  // namespace fastserve::kernels
