#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "offload/copy/copy_runs.h"
#include "offload/transfer.h"

namespace fastserve::offload {

/// A contiguous copy between the arenas; offsets in bytes from their starts.
struct CopyPiece {
  std::int64_t device_offset = 0;
  std::int64_t host_offset = 0;
  std::int64_t num_bytes = 0;

  bool operator==(const CopyPiece&) const = default;
};

/// Sizes of what is handed to a copy engine in one go.
struct PieceLimits {
  std::int64_t max_piece_bytes = 0;
  /// No piece crosses a multiple of it in the host arena, where one page-locked range ends and the next begins.
  std::int64_t host_boundary_bytes = 0;
};

/// Cut runs of blocks into pieces, in order.
std::vector<CopyPiece> cut_runs(Direction direction, std::span<const CopyRun> runs, std::int64_t block_bytes,
                                const PieceLimits& limits);

/// How many of the first pieces (1 or more of a non-empty list) stay within the two limits together.
std::size_t group_length(std::span<const CopyPiece> pieces, std::int64_t max_bytes, std::size_t max_pieces);

}  // namespace fastserve::offload
