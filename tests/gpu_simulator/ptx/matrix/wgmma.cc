#include <bit>
#include <cstring>
#include <utility>

#include "ptx/cta.h"
#include "ptx/error.h"
#include "ptx/matrix/matrix.h"
#include "ptx/matrix/wgmma_operand.h"
#include "ptx/memory/mbarrier.h"

// Source: PTX ISA 9.0, 9.7.15 "Asynchronous warpgroup level matrix multiply-accumulate".
//
// Each warp of a warpgroup makes its own 16 of the 64 rows, so none waits for the others. The registers are written at
// once, but what was read in shared memory must still be the same when the group is waited for. Not seen: an
// accumulator that is read before its group was waited for, and a wgmma.fence left out.

namespace ptx {
namespace {

constexpr int kDepth = 16;

class Checksum {
 public:
  void add(const std::byte* chunk) {
    std::uint64_t words[2];
    std::memcpy(words, chunk, 16);
    value_ = std::rotl((value_ ^ words[0]) * 0x9e3779b97f4a7c15, 29);
    value_ = std::rotl((value_ ^ words[1]) * 0xc2b2ae3d27d4eb4f, 31);
  }
  std::uint64_t value() const { return value_; }

 private:
  std::uint64_t value_ = 1;
};

std::uint64_t checksum(Cta& cta, const WgmmaOperand& operand, int groups) {
  Checksum sum;
  for (int group = 0; group < groups; ++group) {
    for (int c = 0; c < WgmmaOperand::kChunks; ++c) sum.add(cta.shared(operand.address(group, c), 16, 16));
  }
  return sum.value();
}

// What a wgmma in flight has read.
struct Reading {
  Cta* cta;
  WgmmaOperand operand;
  int groups;  // of 8 rows
  std::uint64_t sum;
  char name;
  int line;

  void operator()() const {
    if (checksum(*cta, operand, groups) == sum) return;
    fail("operand ", name, " of the wgmma at line ", line, " was overwritten while in flight");
  }
};

void track(Warp& warp, const WgmmaOperand& operand, int groups, const Checksum& sum, char name, int line) {
  warp.products().open.emplace_back(Reading{&warp.cta(), operand, groups, sum.value(), name, line});
}

// 8 rows at all depths: element(row, depth) is where one goes.
template <bool kBFloat, typename Element>
void read_group(Cta& cta, const WgmmaOperand& operand, bool mn_major, int group, Checksum& sum, Element&& element) {
  for (int c = 0; c < WgmmaOperand::kChunks; ++c) {
    const std::uint64_t address = operand.address(group, c);
    const std::byte* chunk = cta.shared(address, 16, 16);
    cta.require_fenced(address, 16);
    sum.add(chunk);
    std::uint16_t bits[8];
    std::memcpy(bits, chunk, 16);
    for (int i = 0; i < 8; ++i) {
      const int row = mn_major ? i : c / 2;
      const int depth = mn_major ? c : c % 2 * 8 + i;
      element(row, depth) = from_half<kBFloat>(bits[i]);
    }
  }
}

// The value that all lanes must agree on.
std::uint64_t uniform(const Instruction& instruction, const Operand& operand, Warp& warp) {
  const std::uint64_t value = warp.bits(operand, 0);
  for (int lane = 1; lane < kWarpSize; ++lane) {
    if (warp.bits(operand, lane) != value) fail(instruction.name(), ": the lanes differ in a descriptor or scale-d");
  }
  return value;
}

template <bool kBFloat>
void read_shared_a(const Instruction& instruction, Warp& warp, float (&a)[16][kDepth]) {
  const bool mn_major = (instruction.operands[6].value & 1) != 0;
  const WgmmaOperand operand(uniform(instruction, instruction.operands[1], warp), mn_major, warp.index() % 4 * 16);
  Checksum sum;
  for (int group = 0; group < 2; ++group) {
    read_group<kBFloat>(warp.cta(), operand, mn_major, group, sum,
                        [&](int row, int depth) -> float& { return a[8 * group + row][depth]; });
  }
  track(warp, operand, 2, sum, 'A', instruction.line);
}

void require_whole_warpgroup(const Instruction& instruction, Warp& warp, Mask active) {
  require_whole_warp(instruction, active);
  const std::size_t first = static_cast<std::size_t>(warp.index()) / 4 * 4;
  if (first + 4 > warp.cta().warps().size()) fail(instruction.name(), " in a warpgroup of less than 4 warps");
}

// d, a or its descriptor, descriptor of b, scale-d, imm-scale-a, imm-scale-b, {imm-trans-a,} imm-trans-b.
template <bool kBFloat, bool kSharedA>
Outcome product(const Instruction& instruction, Warp& warp, Mask active) {
  require_whole_warpgroup(instruction, warp, active);
  const auto& operands = instruction.operands;
  Cta& cta = warp.cta();
  float a[16][kDepth];
  if constexpr (kSharedA) {
    read_shared_a<kBFloat>(instruction, warp, a);
  } else {
    read_a<kBFloat>(warp, operands[1].elements.data(), a);
  }
  if (operands[4].value != operands[5].value) {
    for (auto& row : a) {
      for (float& element : row) element = -element;
    }
  }
  const bool mn_major = (operands[kSharedA ? 7 : 6].value & 1) != 0;
  const WgmmaOperand b(uniform(instruction, operands[2], warp), mn_major, 0);
  const bool add = (uniform(instruction, operands[3], warp) & 1) != 0;
  const auto& registers = operands[0].elements;
  const int groups = static_cast<int>(registers.size()) / 4;
  Checksum sum;
  for (int group = 0; group < groups; ++group) {
    Tile<kDepth> columns;
    read_group<kBFloat>(cta, b, mn_major, group, sum,
                        [&](int column, int depth) -> float& { return columns[depth][column]; });
    const Operand* four = &registers[static_cast<std::size_t>(4 * group)];
    Tile<16> tile = {};
    if (add) read_accumulators(warp, four, tile);
    multiply(tile, a, columns);
    write_accumulators(warp, four, tile);
  }
  track(warp, b, groups, sum, 'B', instruction.line);
  return Outcome::kDone;
}

Outcome fence(const Instruction& instruction, Warp& warp, Mask active) {
  require_whole_warpgroup(instruction, warp, active);
  return Outcome::kDone;
}

Outcome commit_group(const Instruction& instruction, Warp& warp, Mask active) {
  require_whole_warpgroup(instruction, warp, active);
  Warp::CopyGroups& products = warp.products();
  products.closed.push_back(std::move(products.open));
  products.open.clear();
  return Outcome::kDone;
}

Outcome wait_group(const Instruction& instruction, Warp& warp, Mask active) {
  require_whole_warpgroup(instruction, warp, active);
  Warp::CopyGroups& products = warp.products();
  while (products.closed.size() > instruction.operands[0].value) {
    for (const auto& check : products.closed.front()) check();
    products.closed.pop_front();
  }
  return Outcome::kDone;
}

bool is_immediate(const Operand& operand, std::int64_t one, std::int64_t other) {
  const auto value = static_cast<std::int64_t>(operand.value);
  return operand.kind == Operand::Kind::kImmediate && (value == one || value == other);
}

Handler product_handler(const Instruction& instruction) {
  const auto& modifiers = instruction.modifiers;  // mma_async.sync.aligned.shape.d.a.b
  const auto& operands = instruction.operands;
  const bool known = modifiers.size() == 7 && modifiers[1] == "sync" && modifiers[2] == "aligned" &&
                     modifiers[4] == "f32" && modifiers[5] == modifiers[6] &&
                     (modifiers[5] == "f16" || modifiers[5] == "bf16") && operands.size() >= 7;
  if (!known) refuse(instruction, "not implemented");
  const std::size_t columns = operands[0].elements.size() * 2;
  const bool shape = columns % 8 == 0 && columns >= 8 && columns <= 256 &&
                     modifiers[3] == "m64n" + std::to_string(columns) + "k16" && is_registers(operands[0], columns / 2);
  if (!shape) refuse(instruction, "its shape does not fit its accumulators");
  const bool shared_a = operands[1].kind != Operand::Kind::kVector;
  const bool fits = operands.size() == (shared_a ? 8 : 7) && (shared_a || is_registers(operands[1], 4)) &&
                    is_immediate(operands[4], 1, -1) && is_immediate(operands[5], 1, -1) &&
                    is_immediate(operands[6], 0, 1) && (!shared_a || is_immediate(operands[7], 0, 1));
  if (!fits) refuse(instruction, "wrong operands");
  if (modifiers[5] == "bf16") return shared_a ? product<true, true> : product<true, false>;
  return shared_a ? product<false, true> : product<false, false>;
}

}  // namespace

Handler wgmma_handler(const Instruction& instruction) {
  if (instruction.op != "wgmma" || instruction.modifiers.empty()) return nullptr;
  const std::string& action = instruction.modifiers.front();
  if (action != "mma_async") require_known(instruction, {"fence", "commit_group", "wait_group", "sync", "aligned"});
  if (action == "fence") return fence;
  if (action == "commit_group") return commit_group;
  if (action == "wait_group" && instruction.operands.size() == 1) return wait_group;
  if (action == "mma_async") return product_handler(instruction);
  refuse(instruction, "not implemented");
}

}  // namespace ptx
