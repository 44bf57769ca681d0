#pragma once

#include <array>
#include <cstdint>

#include "kernels/simt.h"

// Words for kernel bodies that use what only Hopper GPUs have: copies of boxes of an array by the copy engine (TMA),
// barriers in shared memory that count bytes (mbarrier), products of a warpgroup of 128 threads (wgmma). Their machine
// has, beside the members of simt.h:
//
//   TensorMap                                    what the copy engine knows of an array; made of a TensorMapSpec
//   uint32_t shared_address(const void*)         of shared memory, in bytes
//   void barrier_init(uint64_t*, int arrivals)   one thread; then barriers_ready() and sync()
//   void barrier_arrive(uint64_t*), barrier_expect(uint64_t*, int bytes)        arrive; expect also announces bytes
//   void barrier_wait(uint64_t*, uint32_t parity)    until the phase of that parity has ended: all arrived, and all
//                                                bytes came
//   void prefetch(const TensorMap&)              a hint that copies with it follow soon
//   void copy_box(void* shared, const TensorMap&, const int (&at)[5], uint64_t* barrier)        asynchronous; what lies
//                                                outside the array becomes zeros, and counts as bytes all the same
//   void store16(void* shared, Word4), proxy_fence()    ordinary stores of memory that the copy engine or wgmma uses
//                                                next: then proxy_fence(), then a barrier
//   void named_sync(int id, int threads), named_arrive(int id, int threads)     barriers 1 to 15 of some of the warps
//   void take_registers<kCount>(), give_registers<kCount>()                     of a thread; whole warpgroup
//   void wgmma<kType>(float (&c)[n][4], uint64_t a, uint64_t b, bool add)       c = or += a b^T; a is [64][16] and b is
//                                                [8 n][16] in shared memory, both with the 16 in neighbouring bytes
//   void wgmma<kType>(float (&c)[n][4], const uint32_t (&a)[4], uint64_t b)     c += a b; b is [16][8 n], with the 8 n
//                                                in neighbouring bytes
//   void wgmma_fence(registers&...)              before a wgmma whose registers were written by something else
//   void wgmma_commit()                          end a group of wgmma
//   void wgmma_wait<kLeft>(registers&...)        until at most kLeft groups are unfinished; these registers may be used
//                                                again. Between wgmma and its end nobody touches its registers or its
//                                                shared memory.
//   void settle(float)                           what this number, not negative, follows from is computed before what
//                                                comes next
//
// c[i][j] and a[i] are laid out in each of the four warps as those of m16n8k16 are: warp w has rows 16 w to 16 w + 15.

namespace fastserve::kernels {

/// An array of 16-bit elements in global memory, of five dimensions, innermost first, and the box that one copy moves.
/// A box lands densely, but for the swizzle: chunks of 16 bytes within each row of `swizzle_bytes` change places.
struct TensorMapSpec {
  const void* base = nullptr;               // aligned to 16 bytes
  std::array<std::int64_t, 5> sizes{};      // elements
  std::array<std::int64_t, 4> strides{};    // bytes, of the dimensions 1 to 4: multiples of 16
  std::array<int, 5> box{};                 // elements, at most 256 each
  int swizzle_bytes = 128;                  // 32, 64 or 128: bytes of a row of the box

  bool operator==(const TensorMapSpec&) const = default;
};

/// A matrix in shared memory as wgmma wants to be told of it. Rows of `swizzle_bytes` come in groups of 8, whose chunks
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

/// Where in a ring of kStages slots somebody is, and the parity of the phase there.
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
