#pragma once

#include <cstdint>

#include "kernels/attention_warp.h"
#include "kernels/simt.h"

// In which order thread blocks take the tiles of prefill on Hopper: those that see most tokens first, so that the last
// ones to be taken are short. A tile is as many query tokens of a row, with all query heads of a KV head, as fill
// kHopperRows. Tiles are sorted into levels by the tokens they see; within a level they come by row, the longest of a
// row first. Nobody stores the list: each thread block walks along it, as the numbers that it is given only grow.

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

struct HopperTile {
  int row = -1;  // of the batch; -1: there are no more tiles
  int tile = 0;  // of the row
  HopperRow shape;
};

/// One warp's walk along the list.
template <typename Machine>
class HopperOrder {
 public:
  FS_DEVICE explicit HopperOrder(const AttentionLaunch& launch)
      : launch_(launch), row_(static_cast<int>(launch.params.row_begin)),
        tile_queries_(hopper_tile_queries(launch.params.num_q_heads / launch.params.num_kv_heads)) {
    int longest = 0;
    for (int row = row_; row < launch.params.row_end; row += 32) {
      const int mine = row + Machine::fresh_lane();
      const int length = mine < launch.params.row_end ? length_of(mine) : 0;
      longest = longest > length ? longest : length;
    }
    FS_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) {
      const int other = Machine::shfl_xor(longest, mask);
      longest = longest > other ? longest : other;
    }
    longest_ = longest;
  }

  /// The tile of that number, the same in every lane. Numbers must not fall from call to call.
  FS_DEVICE HopperTile find(int number) {
    for (; level_ >= 0; --level_) {
      for (; row_ < launch_.params.row_end; row_ += 32) {
        const int lane = Machine::fresh_lane();
        const HopperRow shape = shape_of(row_ + lane);
        const int above = shape.tiles_beyond(hopper_level_bound(level_ + 1, longest_), tile_queries_);
        const int tiles = shape.tiles_beyond(hopper_level_bound(level_, longest_), tile_queries_) - above;
        int up_to = tiles;
        FS_UNROLL
        for (int distance = 1; distance < 32; distance *= 2) {
          const int before = Machine::shfl_up(up_to, distance);
          if (lane >= distance) up_to += before;
        }
        const int within = number - before_ - (up_to - tiles);
        if (Machine::all(within < 0 || within >= tiles)) {
          before_ += Machine::shfl(up_to, 31);
          continue;
        }
        int found = within >= 0 && within < tiles ? lane : 0;
        FS_UNROLL
        for (int mask = 16; mask > 0; mask /= 2) found |= Machine::shfl_xor(found, mask);
        const int tile = shape.num_tiles(tile_queries_) - 1 - above - within;
        return {row_ + found, Machine::shfl(tile, found), {Machine::shfl(shape.num_queries, found),
                                                           Machine::shfl(shape.lead, found)}};
      }
      row_ = static_cast<int>(launch_.params.row_begin);
    }
    return {};
  }

 private:
  FS_DEVICE int length_of(int row) const {
    return row_length(launch_, row - static_cast<int>(launch_.params.row_begin));
  }
  FS_DEVICE HopperRow shape_of(int row) const {
    const AttentionParams& p = launch_.params;
    if (row >= p.row_end) return {};
    const int num_queries = p.query_start[row + 1] - p.query_start[row];
    return {num_queries, length_of(row) - num_queries};
  }

  const AttentionLaunch& launch_;
  int level_ = kHopperLevels - 1;
  int row_;         // first of the 32 that are looked at
  int before_ = 0;  // tiles that come before them
  int longest_ = 0;
  const int tile_queries_;
};

}  // namespace fastserve::kernels
