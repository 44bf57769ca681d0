#include "offload/copy/copy_runs.h"

namespace fastserve::offload {

std::vector<CopyRun> coalesce(std::span<const std::int32_t> source_blocks,
                              std::span<const std::int32_t> target_blocks) {
  std::vector<CopyRun> runs;
  for (std::size_t i = 0; i < source_blocks.size(); ++i) {
    const bool adjacent = !runs.empty() && source_blocks[i] == runs.back().source_block + runs.back().num_blocks &&
                          target_blocks[i] == runs.back().target_block + runs.back().num_blocks;
    if (adjacent) {
      ++runs.back().num_blocks;
    } else {
      runs.push_back({source_blocks[i], target_blocks[i], 1});
    }
  }
  return runs;
}

}  // namespace fastserve::offload
