#pragma once

#include <cstdint>

#include "kernels/simt.h"

// In which order thread blocks take the tiles of prefill on Hopper: those that see most tokens first, so that the last
// ones to be taken are short. A tile is as many query tokens of a row, with all query heads of a KV head, as fill
// kHopperRows. Tiles are sorted into levels by the tokens they see; within a level they come by row, the longest of a
// row first. The list is not stored: each thread block walks along it, as the numbers that it is given only grow.

namespace fastserve::kernels {

inline constexpr int kHopperRows = 128;
inline constexpr int kHopperLevels = 16;

/// Query tokens of a tile, for at most kHopperRows query heads of a KV head.
FS_HOST_DEVICE constexpr int hopper_tile_queries(int group) { return kHopperRows / group; }

/// A row of the batch; query i sees lead + i + 1 tokens, none if that is negative.
struct HopperRow {
  int num_queries = 0;
  int lead = 0;

  FS_HOST_DEVICE constexpr int num_tiles(int tile_queries) const {
    return (num_queries + tile_queries - 1) / tile_queries;
  }
  /// Tiles that see more than `bound` tokens; they are the last ones of the row.
  FS_HOST_DEVICE constexpr int tiles_beyond(int bound, int tile_queries) const {
    const int query = bound - lead;  // the first one that sees more
    if (query >= num_queries) return 0;
    return num_tiles(tile_queries) - (query < 0 ? 0 : query / tile_queries);
  }
};

/// Tokens that the tiles of a level, or of a higher one, exceed; tiles that see nothing are of level 0.
FS_HOST_DEVICE constexpr int hopper_level_bound(int level, int longest) {
  return level == 0 ? -(1 << 30) : static_cast<int>(static_cast<std::int64_t>(longest) * level / kHopperLevels);
}

}  // namespace fastserve::kernels
