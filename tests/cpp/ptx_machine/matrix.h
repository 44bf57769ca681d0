#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "ptx_machine/instruction.h"
#include "ptx_machine/warp.h"

namespace ptx {

/// 8 neighbouring columns of a row.
using Row = float __attribute__((vector_size(32)));

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

/// d[16][8] += a[16][kDepth] * b[kDepth][8]. Products are exact (two significands of 11 bits fit into 24), sums are rounded
/// to single precision in the order of the depth; the manual leaves order and rounding open.
template <int kDepth>
void multiply(Row (&d)[16], const float (&a)[16][kDepth], const Row (&b)[kDepth]) {
  for (int row = 0; row < 16; ++row) {
    Row sum = d[row];
    for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[k];
    d[row] = sum;
  }
}

// Fragments of a 16-row tile, by lane: PTX ISA 9.0, 9.7.14.5.7 (m16n8k8), .8 (m16n8k16); those of a warp in wgmma's
// m64nNk16 are the same, tile by tile of 8 columns (9.7.15.5.1.1.1).

/// Registers of accumulators [16][8]: two of row lane / 4, two of the row 8 below.
inline void read_accumulators(Warp& warp, const Operand* registers, Row (&tile)[16]) {
  for (int r = 0; r < 4; ++r) {
    const Lanes& lanes = warp.registers(registers[r].reg);
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const auto bits = static_cast<std::uint32_t>(lanes[static_cast<std::size_t>(lane)]);
      tile[lane / 4 + 8 * (r / 2)][2 * (lane % 4) + r % 2] = std::bit_cast<float>(bits);
    }
  }
}
inline void write_accumulators(Warp& warp, const Operand* registers, const Row (&tile)[16]) {
  for (int r = 0; r < 4; ++r) {
    Lanes& lanes = warp.registers(registers[r].reg);
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const float value = tile[lane / 4 + 8 * (r / 2)][2 * (lane % 4) + r % 2];
      lanes[static_cast<std::size_t>(lane)] = std::bit_cast<std::uint32_t>(value);
    }
  }
}

/// Registers of A [16][kDepth], pairs of neighbouring columns: row lane / 4, the row 8 below; then the columns 8 further.
template <bool kBFloat, int kDepth>
void read_a(Warp& warp, const Operand* registers, float (&a)[16][kDepth]) {
  for (int r = 0; r < kDepth / 4; ++r) {
    const Lanes& lanes = warp.registers(registers[r].reg);
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const auto pair = static_cast<std::uint32_t>(lanes[static_cast<std::size_t>(lane)]);
      float* element = &a[lane / 4 + 8 * (r % 2)][2 * (lane % 4) + 8 * (r / 2)];
      element[0] = from_half<kBFloat>(pair);
      element[1] = from_half<kBFloat>(pair >> 16);
    }
  }
}

/// Error unless all 32 lanes take part.
void require_whole_warp(const Instruction& instruction, Mask active);

/// Whether an operand is so many registers: one need not stand in braces.
bool is_registers(const Operand& operand, std::size_t count);
inline const Operand* registers_of(const Operand& operand) {
  return operand.kind == Operand::Kind::kVector ? operand.elements.data() : &operand;
}

Handler matrix_handler(const Instruction& instruction);  // mma, ldmatrix, stmatrix
Handler wgmma_handler(const Instruction& instruction);   // wgmma

}  // namespace ptx
