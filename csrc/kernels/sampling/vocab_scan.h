#pragma once

#include <cstdint>

#include "kernels/isa.h"

// Reading a row of logits: the vocabulary is cut into blocks of kVocabBlock tokens, one vector pass finds the maximum
// of each, and what follows (argmax, the k largest, ranks) looks only into the few blocks that matter, so nothing is
// ever sorted as a whole. A logit that is not finite counts as -inf: such a token has no probability.

namespace fastserve::kernels {

inline constexpr std::int64_t kVocabBlock = 64;

FS_DECLARE_CPU(void block_maxima(const float* logits, std::int64_t vocab_size, float* maxima))
FS_DECLARE_CPU(void block_masses(const float* logits, std::int64_t vocab_size, float maximum, float inverse_temperature,
                                 float* masses))

}  // namespace fastserve::kernels
