#pragma once

#include <bit>
#include <cstdint>
#include <functional>
#include <vector>

// Matrices of small integers in shared memory, laid by hand as PTX ISA 9.0, 9.7.15.5.1.2 draws them, for tests of
// wgmma.

namespace ptx {

using Elements = std::function<int(int row, int depth)>;  // small integers: rows of A, columns of B
inline int element_a(int row, int depth) { return (row * 7 + depth * 3 + row * depth) % 11 - 5; }
inline int element_b(int column, int depth) { return (column * 5 + depth * 13 + column * depth / 3) % 9 - 4; }

inline std::uint16_t encode(int value, bool bfloat) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(value));
  if (bfloat || value == 0) return static_cast<std::uint16_t>(bits >> 16);
  return static_cast<std::uint16_t>((bits >> 16 & 0x8000U) | ((bits >> 23 & 0xffU) - 112U) << 10 |
                                    (bits >> 13 & 0x3ffU));
}

// PTX ISA 9.0, 5.5.7: which chunk of 16 bytes of a line of 128 lies where, by the line's place in the pattern.
inline constexpr int kPattern[8][8] = {{0, 1, 2, 3, 4, 5, 6, 7}, {1, 0, 3, 2, 5, 4, 7, 6}, {2, 3, 0, 1, 6, 7, 4, 5},
                                       {3, 2, 1, 0, 7, 6, 5, 4}, {4, 5, 6, 7, 0, 1, 2, 3}, {5, 4, 7, 6, 1, 0, 3, 2},
                                       {6, 7, 4, 5, 2, 3, 0, 1}, {7, 6, 5, 4, 3, 2, 1, 0}};

// A matrix in shared memory, of atoms of 8 lines of `span` bytes (16: core matrices), as 9.7.15.5.1.2 draws them.
struct Layout {
  const char* name;
  unsigned swizzle;  // as in the descriptor
  unsigned span;
  bool mn_major;
  std::uint64_t leading;
  std::uint64_t stride;
  int depth;  // of the tile; the product takes 16 of it

  std::uint64_t address(std::uint64_t tile, int row, int depth_at) const {
    const int wide = mn_major ? row : depth_at;  // along the lines
    const int deep = mn_major ? depth_at : row;  // from line to line
    const auto per_line = static_cast<int>(span / 2);
    const auto atom_wide = static_cast<std::uint64_t>(wide / per_line);
    const auto atom_deep = static_cast<std::uint64_t>(deep / 8);
    std::uint64_t start = tile;
    if (swizzle == 0 && mn_major) start += atom_wide * stride + atom_deep * leading;
    if (swizzle == 0 && !mn_major) start += atom_wide * leading + atom_deep * stride;
    if (swizzle != 0) start += atom_wide * leading + atom_deep * stride;  // K-major: there is one atom across
    const std::uint64_t byte =
        static_cast<std::uint64_t>(deep % 8) * span + static_cast<std::uint64_t>(wide % per_line) * 2;
    if (swizzle == 0) return start + byte;
    const std::uint64_t line = byte / 128;
    const int chunk = kPattern[line % (span / 16)][byte % 128 / 16];
    return start + line * 128 + static_cast<std::uint64_t>(chunk) * 16 + byte % 16;
  }
  std::uint64_t descriptor(std::uint64_t start) const {
    return (start >> 4) | (leading >> 4) << 16 | (stride >> 4) << 32 | static_cast<std::uint64_t>(swizzle) << 62;
  }
  // What CUTLASS adds to the start for the next 16 in depth.
  std::uint64_t advance() const {
    if (mn_major) return 2 * (swizzle == 0 ? leading : stride);
    return swizzle == 0 ? 2 * leading : 32;
  }
};

inline const std::vector<Layout>& layouts() {
  static const std::vector<Layout> all = {
      {"k_128", 1, 128, false, 16, 1024, 64},      {"k_64", 2, 64, false, 16, 512, 32},
      {"k_32", 3, 32, false, 16, 256, 16},         {"k_none", 0, 16, false, 128, 512, 32},
      {"k_none_far", 0, 16, false, 8192, 128, 32}, {"k_128_far", 1, 128, false, 4096, 2048, 64},
      {"mn_128", 1, 128, true, 4096, 1024, 32},    {"mn_64", 2, 64, true, 2048, 512, 32},
      {"mn_32", 3, 32, true, 1024, 256, 32},       {"mn_none", 0, 16, true, 128, 1024, 16},
      {"mn_none_far", 0, 16, true, 4096, 128, 16}, {"mn_128_near", 1, 128, true, 1024, 8192, 32}};
  return all;
}

}  // namespace ptx
