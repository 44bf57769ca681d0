#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/attention/attention_warp.cuh"

// Paged attention on a GPU in the plainest way, for every dtype, head size and block size: the reference of the other
// kernels, and the one for fp32.
//
// A warp per (query token, query head): lane l holds the elements l, l + 32, ... of the head and walks the keys one by
// one. No shared memory.

namespace fastserve::kernels {

inline constexpr int kNaiveThreads = 128;

template <DType kType>
class AttentionNaive {
  static constexpr int kElements = kAttentionMaxHeadDim / 32;  // of a lane

 public:
  static FS_DEVICE void run(const AttentionLaunch& launch) {
    const AttentionParams& p = launch.params;
    const std::int64_t warp = static_cast<std::int64_t>(gpu::cta()) * (kNaiveThreads / 32) + gpu::thread() / 32;
    const std::int64_t token = warp / p.num_q_heads;
    const int head = static_cast<int>(warp % p.num_q_heads);
    if (token >= launch.num_tokens) return;
    if (token < p.query_start[p.row_begin] || token >= p.query_start[p.row_end]) return;
    const int row = row_of(p, token);
    const std::int64_t last = p.query_start[p.row_begin + row + 1] - 1;
    attend(launch, row, token, head, row_length(launch, row) - (last - token));
  }

 private:
  /// The row, counted from params.row_begin, that has the token.
  static FS_DEVICE int row_of(const AttentionParams& p, std::int64_t token) {
    std::int64_t low = p.row_begin;
    std::int64_t high = p.row_end - 1;
    while (low < high) {
      const std::int64_t middle = (low + high) / 2;
      if (p.query_start[middle + 1] > token) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return static_cast<int>(low - p.row_begin);
  }

  /// One head of one token over the first `visible` tokens of its row; zeros when there are none.
  static FS_DEVICE void attend(const AttentionLaunch& launch, int row, std::int64_t token, int head,
                               std::int64_t visible) {
    const AttentionParams& p = launch.params;
    const int lane = gpu::thread() % 32;
    const int kv_head = head / (p.num_q_heads / p.num_kv_heads);
    const std::int32_t* blocks = p.block_ids + p.block_start[p.row_begin + row];
    const std::int64_t q_at = token * p.q_token_stride + head * p.q_head_stride;
    float q[kElements];
    float values[kElements] = {};
    FS_UNROLL
    for (int i = 0; i < kElements; ++i) {
      const int d = lane + 32 * i;
      q[i] = d < p.head_dim ? gpu::load<kType>(p.q, q_at + d) * p.scale : 0.0f;
    }
    float max = minus_infinity();
    float sum = 0.0f;
    for (std::int64_t t = 0; t < visible; ++t) {
      const std::int64_t within = static_cast<std::int64_t>(kv_head) * p.block_size + (t & (p.block_size - 1));
      const std::int64_t keys = blocks[t >> launch.block_shift] * p.block_stride + within * p.head_dim;
      float score = 0.0f;
      FS_UNROLL
      for (int i = 0; i < kElements; ++i) {
        const int d = lane + 32 * i;
        if (d < p.head_dim) score += q[i] * gpu::load<kType>(p.kv, keys + d);
      }
      FS_UNROLL
      for (int mask = 16; mask > 0; mask /= 2) score += gpu::shfl_xor(score, mask);
      score *= kLog2E;
      const float highest = fmaxf(max, score);
      const float factor = rescale(max, highest);
      const float weight = gpu::exp2(score - (highest == minus_infinity() ? 0.0f : highest));
      max = highest;
      sum = sum * factor + weight;
      FS_UNROLL
      for (int i = 0; i < kElements; ++i) {
        const int d = lane + 32 * i;
        if (d < p.head_dim) {
          const float value = gpu::load<kType>(p.kv, keys + values_after_keys(p) + d);
          values[i] = values[i] * factor + weight * value;
        }
      }
    }
    const float inverse = sum == 0.0f ? 0.0f : 1.0f / sum;
    const std::int64_t out_at = token * p.out_token_stride + head * p.out_head_stride;
    FS_UNROLL
    for (int i = 0; i < kElements; ++i) {
      const int d = lane + 32 * i;
      if (d < p.head_dim) gpu::store<kType>(p.out, out_at + d, values[i] * inverse);
    }
  }
};

}  // namespace fastserve::kernels
