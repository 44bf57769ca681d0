#pragma once

#include <array>
#include <cstdint>

#include "kernels/simt.h"

// What the host and the kernels must agree on to use what only Hopper GPUs have: copies of boxes of an array by the copy
// engine (TMA), and products of a warpgroup of 128 threads (wgmma). The instructions: cuda/hopper.cuh.

namespace fastserve::kernels {

/// An array of 16-bit elements in global memory, of five dimensions, innermost first, and the box that one copy moves.
/// A box lands densely, but for the swizzle: chunks of 16 bytes within each row of `swizzle_bytes` change places.
struct TensorMapSpec {
  const void* base = nullptr;             // aligned to 16 bytes
  std::array<std::int64_t, 5> sizes{};    // elements
  std::array<std::int64_t, 4> strides{};  // bytes, of the dimensions 1 to 4: multiples of 16
  std::array<int, 5> box{};               // elements, at most 256 each
  int swizzle_bytes = 128;                // 32, 64 or 128: bytes of a row of the box

  bool operator==(const TensorMapSpec&) const = default;
};

/// A matrix in shared memory as wgmma wants it described. Rows of `swizzle_bytes` come in groups of 8, whose chunks
/// are swizzled as the copy engine does. Start is the address of the first element.
///
/// Where the dimension that is summed over lies in neighbouring bytes, groups of 8 rows are `group_bytes` apart, and
/// panel_bytes has no meaning (16 by convention). Otherwise the rows are of that dimension: `panel_bytes` lead from one
/// row of a group to its continuation, and group_bytes to the next 8 rows.
FS_HOST_DEVICE constexpr std::uint64_t wgmma_descriptor(std::uint32_t start, int group_bytes, int panel_bytes,
                                                        int swizzle_bytes) {
  const std::uint64_t mode = swizzle_bytes == 128 ? 1 : swizzle_bytes == 64 ? 2 : 3;
  return (start & 0x3ffff) >> 4 | static_cast<std::uint64_t>(panel_bytes >> 4) << 16 |
         static_cast<std::uint64_t>(group_bytes >> 4) << 32 | mode << 62;
}

/// A place in a ring of kStages slots, and the parity of the phase there.
template <int kStages>
struct RingPlace {
  int slot = 0;
  std::uint32_t parity = 0;

  FS_DEVICE void next() {
    if (++slot < kStages) return;
    slot = 0;
    parity ^= 1;
  }
};

}  // namespace fastserve::kernels
