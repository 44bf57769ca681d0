#pragma once

// One row of logits on the device: its values, its maximum, and the order of its tokens as integers.

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/vocab_rows.h"
#include "kernels/sampling/vocab_scan.h"

namespace fastserve::kernels::cuda {

constexpr float kLargestFloat = 3.402823466e+38f;

FS_DEVICE float finite_or_minus_inf(float x) { return fabsf(x) <= kLargestFloat ? x : -INFINITY; }

/// The row to read: as it came, or as penalties and bans have left it.
FS_DEVICE const float* row_logits(const VocabRows& rows, std::int64_t row) {
  if (rows.changed_logits != nullptr && rows.changed[row] != 0) return rows.changed_logits + row * rows.vocab_size;
  return rows.logits + row * rows.logits_stride;
}

/// Largest finite logit of the row, -inf when there is none; the whole CTA takes part. For `partials` see block_max.
FS_DEVICE float row_maximum(const VocabRows& rows, std::int64_t row, float* partials) {
  const float* maxima = rows.maxima + row * rows.num_blocks;
  float highest = -INFINITY;
  for (std::int64_t b = threadIdx.x; b < rows.num_blocks; b += blockDim.x) highest = fmaxf(highest, maxima[b]);
  return block_max(highest, partials);
}

/// The order of tokens, larger logit first and lower id first where equal, as that of integers, largest first: 32 bits
/// of the logit above id_bits of the complement of the id. 0 stands for a token without probability.
using Key = unsigned long long;

struct KeyFormat {
  int id_bits;  // a multiple of 8

  FS_DEVICE explicit KeyFormat(std::int64_t vocab_size) : id_bits(vocab_size <= 0x10000 ? 16 : 24) {}
  FS_DEVICE Key id_mask() const { return (Key{1} << id_bits) - 1; }
  FS_DEVICE Key key(float logit, std::int64_t id) const {
    if (!(fabsf(logit) <= kLargestFloat)) return 0;
    const unsigned bits = __float_as_uint(logit + 0.0f);  // -0 equals 0
    const unsigned ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return Key{ordered} << id_bits | (id_mask() - static_cast<Key>(id));
  }
  FS_DEVICE std::int32_t id(Key key) const { return static_cast<std::int32_t>(id_mask() - (key & id_mask())); }
  /// The smallest key of the logit of `key`: tokens of this logit and above have this key or a larger one.
  FS_DEVICE Key floor(Key key) const { return key >> id_bits << id_bits; }
};

}  // namespace fastserve::kernels::cuda
