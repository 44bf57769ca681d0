#pragma once

#include "kernels/dense/linear.h"
#include "kernels/simd.h"

// What the matrix products of every instruction set share: how the inputs of an output are cut into segments, how the
// sums of the segments are added up, and how an output is rounded.
//
// The sums that are not yet added up are a stack: segment i is summed at depth popcount(i), and when it is complete,
// each 1 at the end of i adds the top of the stack to the one below. So 8 segments are added up as a binary tree,
// ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7)), of which each half, quarter and eighth may be summed elsewhere.

namespace fastserve::kernels::FS_ISA {

constexpr int kMaxSumDepth = 4;  // of 8 segments
static_assert(kLinearMaxSegments == 8);

/// The first input of segment i, a multiple of kLinearInputUnit.
FS_INLINE std::int64_t segment_begin(const LinearParams& p, int i) {
  const std::int64_t units = ceil_div(p.in_features, kLinearInputUnit);
  return min_of(units * i / p.num_segments * kLinearInputUnit, p.in_features);
}

FS_INLINE int sum_depth(int segment) { return __builtin_popcount(static_cast<unsigned>(segment)); }

/// Add up what is complete once the top of the stack, at `depth`, is: a 1 at the end of `segment` for each sum.
/// sums is [kMaxSumDepth][rows][kPanelWidth], `depth_stride` floats apart.
FS_NOINLINE inline void merge_sums(float* sums, std::int64_t depth_stride, std::int64_t rows, int segment, int depth) {
  for (; (segment & 1) != 0; segment >>= 1, --depth) {
    const float* top = sums + depth * depth_stride;
    float* below = sums + (depth - 1) * depth_stride;
    for (std::int64_t i = 0; i < rows * kPanelWidth; i += Vec::kLanes)
      store(below + i, load(below + i) + load(top + i));
  }
}

/// out[columns] = sums[columns] + bias[columns]
template <typename T, typename Out>
void finish_row(Out* out, const float* sums, const T* bias, std::int64_t columns) {
  std::int64_t n = 0;
  for (; n + Vec::kLanes <= columns; n += Vec::kLanes) {
    const Vec sum = load(sums + n);
    store(out + n, bias == nullptr ? sum : sum + load(bias + n));
  }
  for (; n < columns; ++n) out[n] = from_float<Out>(bias == nullptr ? sums[n] : sums[n] + to_float(bias[n]));
}

}  // namespace fastserve::kernels::FS_ISA
