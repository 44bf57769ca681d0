#pragma once

#include <cstdint>

#include "kernels/attention/attention_hopper_schedule.h"
#include "kernels/attention/attention_warp.cuh"

// How thread blocks walk along the list of tiles of attention_hopper_schedule.h.

namespace fastserve::kernels {

struct HopperTile {
  int row = -1;  // of the batch; -1: there are no more tiles
  int tile = 0;  // of the row
  HopperRow shape;
};

/// One warp's walk along the list.
class HopperOrder {
 public:
  FS_DEVICE explicit HopperOrder(const AttentionLaunch& launch)
      : launch_(launch),
        row_(static_cast<int>(launch.params.row_begin)),
        tile_queries_(hopper_tile_queries(launch.params.num_q_heads / launch.params.num_kv_heads)) {
    int longest = 0;
    for (int row = row_; row < launch.params.row_end; row += 32) {
      const int mine = row + gpu::fresh_lane();
      const int length = mine < launch.params.row_end ? length_of(mine) : 0;
      longest = longest > length ? longest : length;
    }
    FS_UNROLL
    for (int mask = 16; mask > 0; mask /= 2) {
      const int other = gpu::shfl_xor(longest, mask);
      longest = longest > other ? longest : other;
    }
    longest_ = longest;
  }

  /// The tile of that number, the same in every lane. Numbers must not fall from call to call.
  FS_DEVICE HopperTile find(int number) {
    for (; level_ >= 0; --level_) {
      for (; row_ < launch_.params.row_end; row_ += 32) {
        const int lane = gpu::fresh_lane();
        const HopperRow shape = shape_of(row_ + lane);
        const int above = shape.tiles_beyond(hopper_level_bound(level_ + 1, longest_), tile_queries_);
        const int tiles = shape.tiles_beyond(hopper_level_bound(level_, longest_), tile_queries_) - above;
        int up_to = tiles;
        FS_UNROLL
        for (int distance = 1; distance < 32; distance *= 2) {
          const int before = gpu::shfl_up(up_to, distance);
          if (lane >= distance) up_to += before;
        }
        const int within = number - before_ - (up_to - tiles);
        if (gpu::all(within < 0 || within >= tiles)) {
          before_ += gpu::shfl(up_to, 31);
          continue;
        }
        int found = within >= 0 && within < tiles ? lane : 0;
        FS_UNROLL
        for (int mask = 16; mask > 0; mask /= 2) found |= gpu::shfl_xor(found, mask);
        const int tile = shape.num_tiles(tile_queries_) - 1 - above - within;
        return {
            row_ + found, gpu::shfl(tile, found), {gpu::shfl(shape.num_queries, found), gpu::shfl(shape.lead, found)}};
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
