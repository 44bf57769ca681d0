#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ptx/instruction.h"
#include "ptx/warp.h"

namespace ptx {

/// 8 neighbouring columns of each of some rows.
template <int kRows>
using Tile = float[kRows][8];

inline float from_bf16(std::uint32_t bits) { return std::bit_cast<float>(bits << 16); }

/// Exact, subnormals, infinities and NaN included.
inline float from_f16(std::uint32_t bits) {
  const float magnitude = std::bit_cast<float>((bits & 0x7fffU) << 13) * 0x1p112F;  // exponent biases 15 and 127
  const std::uint32_t special = (bits & 0x7c00U) == 0x7c00U ? 0x7f800000U : 0U;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | special | (bits & 0x8000U) << 16);
}

template <bool kBFloat>
float from_half(std::uint32_t bits) {
  return kBFloat ? from_bf16(bits & 0xffffU) : from_f16(bits & 0xffffU);
}

/// d += a[16][kDepth] * b. Products are exact (two significands of 11 bits fit into 24), sums are rounded to single
/// precision in the order of the depth; the manual leaves order and rounding open.
template <int kDepth>
void multiply(Tile<16>& d, const float (&a)[16][kDepth], const Tile<kDepth>& b) {
  using Quad = float __attribute__((vector_size(16)));
  const auto quad = [](const float* columns) {
    Quad values;
    std::memcpy(&values, columns, sizeof(values));
    return values;
  };
  for (int row = 0; row < 16; row += 2) {  // two, so that sums need not wait for one another
    Quad sums[4] = {quad(&d[row][0]), quad(&d[row][4]), quad(&d[row + 1][0]), quad(&d[row + 1][4])};
    for (int k = 0; k < kDepth; ++k) {
      const Quad low = quad(&b[k][0]);
      const Quad high = quad(&b[k][4]);
      sums[0] += a[row][k] * low;
      sums[1] += a[row][k] * high;
      sums[2] += a[row + 1][k] * low;
      sums[3] += a[row + 1][k] * high;
    }
    std::memcpy(&d[row], sums, sizeof(sums));
  }
}

// Fragments of a 16-row tile, by lane: PTX ISA 9.0, 9.7.14.5.7 (m16n8k8), .8 (m16n8k16); those of a warp in wgmma's
// m64nNk16 are the same, tile by tile of 8 columns (9.7.15.5.1.1.1). Lane 4 * group + thread has, of matrix rows (of B:
// columns), number `group`.

/// Calls `f(group, thread, lane)` for all lanes.
template <typename F>
void for_each_fragment(F&& f) {
  for (int group = 0; group < 8; ++group) {
    for (int thread = 0; thread < 4; ++thread) f(group, thread, static_cast<std::size_t>(4 * group + thread));
  }
}

/// Registers of accumulators: two of neighbours in a row, two of the row 8 below.
inline void read_accumulators(Warp& warp, const Operand* registers, Tile<16>& tile) {
  for (int r = 0; r < 4; ++r) {
    const Lanes& lanes = warp.registers(registers[r].reg);
    float* const first = &tile[8 * (r / 2)][r % 2];
    for_each_fragment([&](int group, int thread, std::size_t lane) {
      first[8 * group + 2 * thread] = std::bit_cast<float>(static_cast<std::uint32_t>(lanes[lane]));
    });
  }
}
inline void write_accumulators(Warp& warp, const Operand* registers, const Tile<16>& tile) {
  for (int r = 0; r < 4; ++r) {
    Lanes& lanes = warp.registers(registers[r].reg);
    const float* const first = &tile[8 * (r / 2)][r % 2];
    for_each_fragment([&](int group, int thread, std::size_t lane) {
      lanes[lane] = std::bit_cast<std::uint32_t>(first[8 * group + 2 * thread]);
    });
  }
}

/// Registers of A, pairs of neighbours in a row: of it, of the row 8 below; then the same 8 columns further.
template <bool kBFloat, int kDepth>
void read_a(Warp& warp, const Operand* registers, float (&a)[16][kDepth]) {
  for (int r = 0; r < kDepth / 4; ++r) {
    const Lanes& lanes = warp.registers(registers[r].reg);
    float* const first = &a[8 * (r % 2)][8 * (r / 2)];
    for_each_fragment([&](int group, int thread, std::size_t lane) {
      const auto pair = static_cast<std::uint32_t>(lanes[lane]);
      first[kDepth * group + 2 * thread] = from_half<kBFloat>(pair);
      first[kDepth * group + 2 * thread + 1] = from_half<kBFloat>(pair >> 16);
    });
  }
}

/// Error unless all 32 lanes take part.
void require_whole_warp(const Instruction& instruction, Mask active);

/// Whether an operand is so many registers: a single one needs no braces.
bool is_registers(const Operand& operand, std::size_t count);
inline const Operand* registers_of(const Operand& operand) {
  return operand.kind == Operand::Kind::kVector ? operand.elements.data() : &operand;
}

Handler matrix_handler(const Instruction& instruction);  // mma, ldmatrix, stmatrix
Handler wgmma_handler(const Instruction& instruction);   // wgmma

}  // namespace ptx
