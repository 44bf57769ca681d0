#pragma once

#include <cmath>
#include <cstdint>

#include "base/dtype.h"
#include "kernels/attention/attention_gpu.h"
#include "kernels/attention/attention_tile_layout.h"
#include "kernels/cuda/gpu.cuh"

// What the tensor-core attention kernels share: a warp's online softmax over tiles of m16n8k16, and paged tiles.
//
// Lane l holds, of each 16 x 8 result of an mma, columns 2 (l % 4) and 2 (l % 4) + 1 of the rows l / 4 and l / 4 + 8.

namespace fastserve::kernels {

inline constexpr float kLog2E = 1.4426950408889634f;
FS_HOST_DEVICE constexpr float minus_infinity() { return -__builtin_inff(); }

/// Length of row `row`, counted from params.row_begin.
FS_DEVICE int row_length(const AttentionLaunch& launch, int row) {
  const int length = launch.params.seq_lens[launch.params.row_begin + row];
  return length < launch.max_seq_len ? length : launch.max_seq_len;
}

/// The keys of the tokens of one row from `token` on, up to the end of its block. One layer of a block has less than
/// 2^31 elements; the cache may have more.
FS_DEVICE const std::uint16_t* keys_at(const AttentionParams& p, int block_id, int kv_head, int token) {
  const int within = (kv_head * p.block_size + (token & (p.block_size - 1))) * p.head_dim;
  return static_cast<const std::uint16_t*>(p.kv) + block_id * p.block_stride + within;
}
/// How much further the values of the same tokens lie.
FS_DEVICE int values_after_keys(const AttentionParams& p) { return p.num_kv_heads * p.block_size * p.head_dim; }

/// exp2(from - to) for running maxima, 0 where there was nothing before: never NaN by itself.
FS_DEVICE float rescale(float from, float to) { return from == minus_infinity() ? 0.0f : gpu::exp2(from - to); }

/// Sums over the four lanes that share a row, of both rows of a lane.
FS_DEVICE void add_up_columns(float (&sums)[2]) {
  FS_UNROLL
  for (int half = 0; half < 2; ++half) {
    sums[half] += gpu::shfl_xor(sums[half], 1);
    sums[half] += gpu::shfl_xor(sums[half], 2);
  }
}

/// Online softmax of two rows of a lane, in units of log2. The sum is of this lane's columns only, until `finish`.
struct RunningSoftmax {
  float max[2] = {minus_infinity(), minus_infinity()};
  float sum[2] = {0.0f, 0.0f};

  /// Turn kTiles results of scores into weights; `factor` is what the accumulated values must be multiplied with.
  template <int kTiles>
  FS_DEVICE void update(float (&scores)[kTiles][4], float (&factor)[2]) {
    FS_UNROLL
    for (int half = 0; half < 2; ++half) {
      float highest = max[half];
      FS_UNROLL
      for (int n = 0; n < kTiles; ++n) {
        highest = fmaxf(highest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      }
      highest = fmaxf(highest, gpu::shfl_xor(highest, 1));
      highest = fmaxf(highest, gpu::shfl_xor(highest, 2));
      const float offset = highest == minus_infinity() ? 0.0f : highest;  // -inf - -inf would be NaN
      factor[half] = rescale(max[half], highest);
      max[half] = highest;
      float added = 0.0f;
      FS_UNROLL
      for (int n = 0; n < kTiles; ++n) {
        scores[n][2 * half] = gpu::exp2(scores[n][2 * half] - offset);
        scores[n][2 * half + 1] = gpu::exp2(scores[n][2 * half + 1] - offset);
        added += scores[n][2 * half] + scores[n][2 * half + 1];
      }
      sum[half] = sum[half] * factor[half] + added;
    }
  }

  /// Add up the columns of the four lanes that share a row.
  FS_DEVICE void finish() { add_up_columns(sum); }
};

/// Online softmax of two rows of a lane. Maxima are those of the products, before the scale, which is positive; sums
/// are of this lane's columns only, until `finish`.
struct HopperSoftmax {
  float max[2] = {minus_infinity(), minus_infinity()};
  float sum[2] = {0.0f, 0.0f};

  /// Turn products into weights exp2(scale * product - ...); `factor` is what the sums so far must be multiplied with,
  /// exactly 1 where the maximum stays.
  template <int kTiles>
  FS_DEVICE void update(float (&scores)[kTiles][4], float scale, float (&factor)[2]) {
    FS_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float before = max[half];
      float highest = before;
      FS_UNROLL
      for (int n = 0; n < kTiles; ++n) {
        highest = fmaxf(highest, fmaxf(scores[n][2 * half], scores[n][2 * half + 1]));
      }
      highest = fmaxf(highest, gpu::shfl_xor(highest, 1));
      highest = fmaxf(highest, gpu::shfl_xor(highest, 2));
      const float offset = highest == minus_infinity() ? 0.0f : highest * scale;  // -inf - -inf would be NaN
      factor[half] = before == highest ? 1.0f : gpu::exp2(before * scale - offset);
      max[half] = highest;
      float added = 0.0f;
      FS_UNROLL
      for (int n = 0; n < kTiles; ++n) {
        scores[n][2 * half] = gpu::exp2(scores[n][2 * half] * scale - offset);
        scores[n][2 * half + 1] = gpu::exp2(scores[n][2 * half + 1] * scale - offset);
        added += scores[n][2 * half] + scores[n][2 * half + 1];
      }
      sum[half] = sum[half] * factor[half] + added;
    }
  }

  /// Add up the columns of the four lanes that share a row.
  FS_DEVICE void finish() { add_up_columns(sum); }
};

/// A warp copies kRows tokens that follow each other in memory into a tile. Those from `visible` on become zeros: a
/// value that no token has written could be NaN, and 0 * NaN is NaN.
template <int kHeadDim, int kRows>
FS_DEVICE void copy_tokens(char* tile, const std::uint16_t* tokens, int visible) {
  using Layout = TileLayout<kHeadDim>;
  static_assert(kRows * Layout::kChunks % 32 == 0);
  const int lane = gpu::fresh_lane();
  FS_UNROLL
  for (int i = 0; i < kRows * Layout::kChunks / 32; ++i) {
    const int row = (lane + 32 * i) / Layout::kChunks;
    const int chunk = (lane + 32 * i) % Layout::kChunks;
    gpu::copy16(tile + Layout::offset(row, chunk), tokens + (lane + 32 * i) * 8, row < visible);
  }
}

/// Lane's row in a 16 x 16 tile that ldmatrix reads, and its chunk, 0 or 1. Keys (rows are columns of the product):
FS_DEVICE int key_row(int lane) { return lane / 16 * 8 + lane % 8; }
FS_DEVICE int key_chunk(int lane) { return lane / 8 % 2; }
/// Queries, and values read transposed:
FS_DEVICE int value_row(int lane) { return lane % 16; }
FS_DEVICE int value_chunk(int lane) { return lane / 16; }

}  // namespace fastserve::kernels
