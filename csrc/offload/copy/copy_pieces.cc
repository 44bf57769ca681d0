#include "offload/copy/copy_pieces.h"

#include <algorithm>

#include "base/error.h"

namespace fastserve::offload {

std::vector<CopyPiece> cut_runs(Direction direction, std::span<const CopyRun> runs, std::int64_t block_bytes,
                                const PieceLimits& limits) {
  FS_CHECK(limits.max_piece_bytes > 0 && limits.host_boundary_bytes > 0, "piece limits must be positive");
  const bool to_host = direction == Direction::kDeviceToHost;
  std::vector<CopyPiece> pieces;
  pieces.reserve(runs.size());
  for (const CopyRun& run : runs) {
    std::int64_t device = block_bytes * (to_host ? run.source_block : run.target_block);
    std::int64_t host = block_bytes * (to_host ? run.target_block : run.source_block);
    std::int64_t left = block_bytes * run.num_blocks;
    while (left > 0) {
      const std::int64_t to_boundary = limits.host_boundary_bytes - host % limits.host_boundary_bytes;
      const std::int64_t num_bytes = std::min({left, limits.max_piece_bytes, to_boundary});
      pieces.push_back({device, host, num_bytes});
      device += num_bytes;
      host += num_bytes;
      left -= num_bytes;
    }
  }
  return pieces;
}

std::size_t group_length(std::span<const CopyPiece> pieces, std::int64_t max_bytes, std::size_t max_pieces) {
  std::size_t count = 0;
  std::int64_t bytes = 0;
  while (count < std::min(pieces.size(), max_pieces)) {
    bytes += pieces[count].num_bytes;
    if (count > 0 && bytes > max_bytes) break;
    ++count;
  }
  return count;
}

}  // namespace fastserve::offload
