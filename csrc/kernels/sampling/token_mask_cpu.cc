// One thread per row: a word of the mask at a time, without a branch per token.

#include "kernels/sampling/token_mask.h"

namespace fastserve::kernels::FS_ISA {

void mask_row(float* logits, const std::uint32_t* mask, std::int64_t vocab_size) {
  constexpr std::int64_t kWordBits = 32;
  const std::int64_t whole = vocab_size / kWordBits;
  for (std::int64_t w = 0; w < whole; ++w) {
    const std::uint32_t word = mask[w];
    if (word == 0xFFFFFFFFu) continue;
    float* block = logits + w * kWordBits;
    for (std::uint32_t bit = 0; bit < kWordBits; ++bit)
      block[bit] = (word >> bit & 1u) ? block[bit] : -__builtin_inff();
  }
  for (std::int64_t t = whole * kWordBits; t < vocab_size; ++t) {
    if (!(mask[whole] >> (t - whole * kWordBits) & 1u)) logits[t] = -__builtin_inff();
  }
}

}  // namespace fastserve::kernels::FS_ISA
