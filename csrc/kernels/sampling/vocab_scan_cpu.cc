// One thread per row: block_maxima and block_masses read the row once, block by block, without a branch per token.

#include "kernels/sampling/vocab_scan.h"
#include "kernels/simd.h"

namespace fastserve::kernels::FS_ISA {
namespace {

constexpr int kVecs = static_cast<int>(kVocabBlock) / Vec::kLanes;
constexpr float kMinusInf = -__builtin_inff();

FS_INLINE Vec load_finite(const float* p) {
  const Vec x = load(p);
  const Vec magnitude = max(x, set1(0.0f) - x);
  return select_le(magnitude, set1(__FLT_MAX__), x, set1(kMinusInf));
}

/// The last, partial block, filled up with -inf.
struct Tail {
  alignas(64) float logits[kVocabBlock];
  Tail(const float* from, std::int64_t count) {
    for (std::int64_t i = 0; i < kVocabBlock; ++i) logits[i] = i < count ? from[i] : kMinusInf;
  }
};

FS_INLINE float block_maximum(const float* block) {
  Vec highest = load_finite(block);
  for (int v = 1; v < kVecs; ++v) highest = max(highest, load_finite(block + v * Vec::kLanes));
  return reduce_max(highest);
}

FS_INLINE float block_mass(const float* block, float maximum, float inverse_temperature) {
  Vec sum = set1(0.0f);
  for (int v = 0; v < kVecs; ++v) {
    sum = sum + exp((load_finite(block + v * Vec::kLanes) - set1(maximum)) * set1(inverse_temperature));
  }
  return reduce_sum(sum);
}

}  // namespace

/// maxima[b] = largest finite logit of block b, -inf when there is none.
void block_maxima(const float* logits, std::int64_t vocab_size, float* maxima) {
  const std::int64_t whole = vocab_size / kVocabBlock;
  for (std::int64_t b = 0; b < whole; ++b) maxima[b] = block_maximum(logits + b * kVocabBlock);
  if (whole * kVocabBlock == vocab_size) return;
  const Tail tail(logits + whole * kVocabBlock, vocab_size - whole * kVocabBlock);
  maxima[whole] = block_maximum(tail.logits);
}

/// masses[b] = sum of exp((logit - maximum) * inverse_temperature) over the finite logits of block b.
void block_masses(const float* logits, std::int64_t vocab_size, float maximum, float inverse_temperature,
                  float* masses) {
  const std::int64_t whole = vocab_size / kVocabBlock;
  for (std::int64_t b = 0; b < whole; ++b) {
    masses[b] = block_mass(logits + b * kVocabBlock, maximum, inverse_temperature);
  }
  if (whole * kVocabBlock == vocab_size) return;
  const Tail tail(logits + whole * kVocabBlock, vocab_size - whole * kVocabBlock);
  masses[whole] = block_mass(tail.logits, maximum, inverse_temperature);
}

}  // namespace fastserve::kernels::FS_ISA
