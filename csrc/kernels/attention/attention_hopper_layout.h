#pragma once

#include <cstdint>

#include "kernels/attention/attention_gpu.h"
#include "kernels/attention/attention_hopper_schedule.h"
#include "kernels/hopper.h"

// Where prefill on Hopper keeps what in shared memory, and in which boxes the copy engine brings it there.

namespace fastserve::kernels {

/// Rows are heads, cut into panels that the swizzle covers. Queries lie as [panel][row], a tile of keys or values,
/// which comes page by page, as [row / 8][panel][row % 8].
template <int kHeadDim>
struct HopperLayout {
  static_assert(kHeadDim % 16 == 0);
  static constexpr int kRowBytes = 2 * kHeadDim;
  static constexpr int kSwizzleBytes = kRowBytes % 128 == 0 ? 128 : kRowBytes % 64 == 0 ? 64 : 32;
  static constexpr int kPanels = kRowBytes / kSwizzleBytes;
  static constexpr int kAtomBytes = 8 * kSwizzleBytes;           // of a panel of 8 rows
  static constexpr int kGroupBytes = 8 * kRowBytes;              // of 8 rows of a tile
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

}  // namespace fastserve::kernels
