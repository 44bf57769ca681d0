#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fastserve::offload {

/// `num_blocks` consecutive blocks on both sides: one contiguous copy.
struct CopyRun {
  std::int32_t source_block = 0;
  std::int32_t target_block = 0;
  std::int32_t num_blocks = 0;

  bool operator==(const CopyRun&) const = default;
};

/// Join pairs (source_blocks[i], target_blocks[i]) that follow each other on both sides; the order is kept.
std::vector<CopyRun> coalesce(std::span<const std::int32_t> source_blocks, std::span<const std::int32_t> target_blocks);

}  // namespace fastserve::offload
