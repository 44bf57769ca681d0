#include "ptx/matrix/matrix.h"

#include <algorithm>
#include <cstring>

#include "ptx/cta.h"
#include "ptx/error.h"
#include "ptx/memory/mbarrier.h"

// Source: PTX ISA 9.0, 9.7.14.5 "Matrix multiply-accumulate using mma": fragments .7 and .8, mma .14, ldmatrix .15,
// stmatrix .16.

namespace ptx {
namespace {

// B: pairs of neighbours in a column; then the same 8 rows below.
template <bool kBFloat, int kDepth>
void read_b(Warp& warp, const Operand* registers, Tile<kDepth>& b) {
  for (int r = 0; r < kDepth / 8; ++r) {
    const Lanes& lanes = warp.registers(registers[r].reg);
    for_each_fragment([&](int group, int thread, std::size_t lane) {
      const auto pair = static_cast<std::uint32_t>(lanes[lane]);
      b[8 * r + 2 * thread][group] = from_half<kBFloat>(pair);
      b[8 * r + 2 * thread + 1][group] = from_half<kBFloat>(pair >> 16);
    });
  }
}

std::size_t num_registers(const Operand& operand) {
  return operand.kind == Operand::Kind::kVector ? operand.elements.size() : 1;
}

template <bool kBFloat, int kDepth>
Outcome mma(const Instruction& instruction, Warp& warp, Mask active) {
  require_whole_warp(instruction, active);
  const auto& operands = instruction.operands;
  float a[16][kDepth];
  Tile<kDepth> b;
  Tile<16> tile;
  read_a<kBFloat>(warp, registers_of(operands[1]), a);
  read_b<kBFloat>(warp, registers_of(operands[2]), b);
  read_accumulators(warp, registers_of(operands[3]), tile);
  multiply(tile, a, b);
  write_accumulators(warp, registers_of(operands[0]), tile);
  return Outcome::kDone;
}

Handler mma_handler(const Instruction& instruction) {
  const auto& modifiers = instruction.modifiers;  // sync.aligned.shape.row.col.d.a.b.c
  const bool known = modifiers.size() == 9 && modifiers[0] == "sync" && modifiers[1] == "aligned" &&
                     modifiers[3] == "row" && modifiers[4] == "col" && modifiers[5] == "f32" && modifiers[8] == "f32" &&
                     modifiers[6] == modifiers[7] && (modifiers[6] == "f16" || modifiers[6] == "bf16");
  const bool deep = known && modifiers[2] == "m16n8k16";
  if (!known || (!deep && modifiers[2] != "m16n8k8")) refuse(instruction, "not implemented");
  const auto& operands = instruction.operands;
  const bool fits = operands.size() == 4 && is_registers(operands[0], 4) && is_registers(operands[1], deep ? 4 : 2) &&
                    is_registers(operands[2], deep ? 2 : 1) && is_registers(operands[3], 4);
  if (!fits) refuse(instruction, "wrong registers");
  if (modifiers[6] == "bf16") return deep ? mma<true, 16> : mma<true, 8>;
  return deep ? mma<false, 16> : mma<false, 8>;
}

// Matrix i of 8x8 elements of 16 bits: its rows are at the addresses of the lanes 8 * i to 8 * i + 7, its fragment in
// register i: of row lane / 4 the elements 2 * (lane % 4) and the next; transposed: of the column.
template <bool kGeneric>
std::uint16_t* matrix_row(const Operand& address, Warp& warp, int lane) {
  Cta& cta = warp.cta();
  return reinterpret_cast<std::uint16_t*>(cta.shared(shared_address(cta, warp.bits(address, lane), kGeneric), 16, 16));
}

template <bool kGeneric, bool kTransposed>
Outcome load(const Instruction& instruction, Warp& warp, Mask active) {
  require_whole_warp(instruction, active);
  const Operand* registers = registers_of(instruction.operands[0]);
  const int matrices = static_cast<int>(num_registers(instruction.operands[0]));
  std::uint16_t elements[4][8][8];  // all are read before a register is written: the addresses may be one of them
  for (int row = 0; row < 8 * matrices; ++row) {
    std::memcpy(elements[row / 8][row % 8], matrix_row<kGeneric>(instruction.operands[1], warp, row), 16);
  }
  for (int i = 0; i < matrices; ++i) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int row = lane / 4;
      const int pair = 2 * (lane % 4);
      const std::uint32_t low = kTransposed ? elements[i][pair][row] : elements[i][row][pair];
      const std::uint32_t high = kTransposed ? elements[i][pair + 1][row] : elements[i][row][pair + 1];
      warp.write(registers[i], lane, low | high << 16);
    }
  }
  return Outcome::kDone;
}

template <bool kGeneric, bool kTransposed>
Outcome store(const Instruction& instruction, Warp& warp, Mask active) {
  require_whole_warp(instruction, active);
  Cta& cta = warp.cta();
  const Operand* registers = registers_of(instruction.operands[1]);
  const int matrices = static_cast<int>(num_registers(instruction.operands[1]));
  for (int i = 0; i < matrices; ++i) {
    std::uint16_t elements[8][8];
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int row = lane / 4;
      const int pair = 2 * (lane % 4);
      const auto both = warp.read<std::uint32_t>(registers[i], lane);
      (kTransposed ? elements[pair][row] : elements[row][pair]) = static_cast<std::uint16_t>(both);
      (kTransposed ? elements[pair + 1][row] : elements[row][pair + 1]) = static_cast<std::uint16_t>(both >> 16);
    }
    for (int row = 0; row < 8; ++row) {
      std::memcpy(matrix_row<kGeneric>(instruction.operands[0], warp, 8 * i + row), elements[row], 16);
      cta.stored(warp, shared_address(cta, warp.bits(instruction.operands[0], 8 * i + row), kGeneric), 16);
    }
  }
  return Outcome::kDone;
}

template <bool kGeneric>
Handler choose_move(const Instruction& instruction) {
  require_known(instruction, {"sync", "aligned", "m8n8", "x1", "x2", "x4", "trans", "shared", "shared::cta", "b16"});
  const bool loads = instruction.op == "ldmatrix";
  if (instruction.operands.size() != 2) refuse(instruction, "wrong number of operands");
  const Operand& registers = instruction.operands[loads ? 0 : 1];
  const bool fits = (instruction.has("x1") && is_registers(registers, 1)) ||
                    (instruction.has("x2") && is_registers(registers, 2)) ||
                    (instruction.has("x4") && is_registers(registers, 4));
  if (!fits || !instruction.has("m8n8") || !instruction.has("b16")) refuse(instruction, "not implemented");
  if (instruction.has("trans")) return loads ? load<kGeneric, true> : store<kGeneric, true>;
  return loads ? load<kGeneric, false> : store<kGeneric, false>;
}

}  // namespace

void require_whole_warp(const Instruction& instruction, Mask active) {
  if (active == ~Mask{0}) return;
  fail(instruction.name(), " by the lanes ", std::hex, active, " alone: it takes all of the warp");
}

bool is_registers(const Operand& operand, std::size_t count) {
  const Operand* registers = registers_of(operand);
  return num_registers(operand) == count && std::all_of(registers, registers + count, [](const Operand& one) {
           return one.kind == Operand::Kind::kRegister;
         });
}

Handler matrix_handler(const Instruction& instruction) {
  if (instruction.op == "mma") return mma_handler(instruction);
  if (instruction.op != "ldmatrix" && instruction.op != "stmatrix") return nullptr;
  return addresses_are_generic(instruction) ? choose_move<true>(instruction) : choose_move<false>(instruction);
}

}  // namespace ptx
