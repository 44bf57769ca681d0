#pragma once

#include <cstdint>

#include "kernels/attention_gpu.h"
#include "kernels/attention_hopper_schedule.h"
#include "kernels/attention_warp.h"
#include "kernels/hopper.h"

// Where prefill on Hopper keeps what in shared memory, how the copy engine is told to bring it there, and its softmax.

namespace fastserve::kernels {

/// Rows are heads, cut into panels that the swizzle covers. Queries lie as [panel][row], a tile of keys or values,
/// which comes page by page, as [row / 8][panel][row % 8].
template <int kHeadDim>
struct HopperLayout {
  static_assert(kHeadDim % 16 == 0);
  static constexpr int kRowBytes = 2 * kHeadDim;
  static constexpr int kSwizzleBytes = kRowBytes % 128 == 0 ? 128 : kRowBytes % 64 == 0 ? 64 : 32;
  static constexpr int kPanels = kRowBytes / kSwizzleBytes;
  static constexpr int kAtomBytes = 8 * kSwizzleBytes;  // of a panel of 8 rows
  static constexpr int kGroupBytes = 8 * kRowBytes;     // of 8 rows of a tile
  static constexpr int kTileTokens = kHeadDim > 128 ? 64 : 128;  // fewer where the registers would not hold more
  static constexpr int kTileBytes = kTileTokens * kRowBytes;
  static constexpr int kQueryPanelBytes = kHopperRows * kSwizzleBytes;
  static constexpr int kQueryBytes = kPanels * kQueryPanelBytes;
  static constexpr int kQueryStages = kHeadDim > 128 ? 1 : 2;
  static constexpr int kFittingStages = (222 * 1024 - kQueryStages * kQueryBytes) / (2 * kTileBytes);
  static constexpr int kStages = kFittingStages < 4 ? kFittingStages : 4;  // tiles of keys, and as many of values
  static constexpr int kBytes = kQueryStages * kQueryBytes + 2 * kStages * kTileBytes;
  static_assert(kStages >= 2);

  /// The first byte, before the swizzle, of a panel of a row of a tile.
  FS_HOST_DEVICE static constexpr int tile_offset(int row, int panel) {
    return row / 8 * kGroupBytes + panel * kAtomBytes + row % 8 * kSwizzleBytes;
  }
};

/// The queries as [KV head][panel][token][head of the group][element], a box for a panel of a tile of queries.
template <int kHeadDim>
TensorMapSpec hopper_query_map(const AttentionLaunch& launch) {
  using Layout = HopperLayout<kHeadDim>;
  const AttentionParams& p = launch.params;
  const int group = p.num_q_heads / p.num_kv_heads;
  constexpr int kElements = Layout::kSwizzleBytes / 2;
  return {.base = p.q,
          .sizes = {kElements, group, launch.num_tokens, Layout::kPanels, p.num_kv_heads},
          .strides = {2 * p.q_head_stride, 2 * p.q_token_stride, Layout::kSwizzleBytes, 2 * group * p.q_head_stride},
          .box = {kElements, group, hopper_tile_queries(group), 1, 1},
          .swizzle_bytes = Layout::kSwizzleBytes};
}

/// The cache as [block][8 rows of a head's keys or values][panel][row][element], a box for a page.
template <int kHeadDim>
TensorMapSpec hopper_page_map(const AttentionLaunch& launch) {
  using Layout = HopperLayout<kHeadDim>;
  const AttentionParams& p = launch.params;
  constexpr int kElements = Layout::kSwizzleBytes / 2;
  return {.base = p.kv,
          .sizes = {kElements, 8, Layout::kPanels, 2 * p.num_kv_heads * (p.block_size / 8), launch.num_blocks},
          .strides = {Layout::kRowBytes, Layout::kSwizzleBytes, Layout::kGroupBytes, 2 * p.block_stride},
          .box = {kElements, 8, Layout::kPanels, p.block_size / 8, 1},
          .swizzle_bytes = Layout::kSwizzleBytes};
}

/// Online softmax of two rows of a lane. Maxima are those of the products, before the scale, which is positive; sums
/// are of this lane's columns only, until `finish`.
template <typename Machine>
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
      highest = fmaxf(highest, Machine::shfl_xor(highest, 1));
      highest = fmaxf(highest, Machine::shfl_xor(highest, 2));
      const float offset = highest == minus_infinity() ? 0.0f : highest * scale;  // -inf - -inf would be NaN
      factor[half] = before == highest ? 1.0f : Machine::exp2(before * scale - offset);
      max[half] = highest;
      float added = 0.0f;
      FS_UNROLL
      for (int n = 0; n < kTiles; ++n) {
        scores[n][2 * half] = Machine::exp2(scores[n][2 * half] * scale - offset);
        scores[n][2 * half + 1] = Machine::exp2(scores[n][2 * half + 1] * scale - offset);
        added += scores[n][2 * half] + scores[n][2 * half + 1];
      }
      sum[half] = sum[half] * factor[half] + added;
    }
  }

  /// Add up the columns of the four lanes that share a row.
  FS_DEVICE void finish() { add_up_columns<Machine>(sum); }
};

}  // namespace fastserve::kernels
