#include <cstdint>

#include "ptx/cta.h"
#include "ptx/error.h"
#include "ptx/exchange.h"
#include "ptx/instruction.h"
#include "ptx/warp.h"

namespace ptx {
namespace {

Outcome branch(const Instruction& instruction, Warp& warp, Mask active) {
  warp.jump(active, static_cast<std::int64_t>(instruction.operands[0].value));
  return Outcome::kMoved;
}

Outcome leave(const Instruction&, Warp& warp, Mask active) {
  warp.end(active);
  return Outcome::kMoved;
}

Outcome trap(const Instruction&, Warp&, Mask) { fail("the kernel gave up"); }

Outcome sleep(const Instruction&, Warp&, Mask) { return Outcome::kYield; }

// The value of an operand that must be the same in the whole warp.
int uniform(const Instruction& instruction, std::size_t operand, const Warp& warp, Mask active) {
  const auto value = warp.read<std::int32_t>(instruction.operands[operand], __builtin_ctz(active));
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((active >> lane & 1U) == 0) continue;
    const auto other = warp.read<std::int32_t>(instruction.operands[operand], lane);
    if (other != value) fail("the lanes of the warp give ", value, " and ", other, " for operand ", operand);
  }
  return value;
}

// bar.sync a[, b]; bar.arrive a, b: barrier a of b threads.
template <bool kSync>
Outcome barrier(const Instruction& instruction, Warp& warp, Mask active) {
  const int id = uniform(instruction, 0, warp, active);
  int num_threads = 0;
  if (instruction.operands.size() > 1) {
    num_threads = uniform(instruction, 1, warp, active);
    if (num_threads == 0) fail("barrier ", id, " of no threads");
  }
  return warp.cta().barrier(id, num_threads, warp, kSync) ? Outcome::kDone : Outcome::kWait;
}

Handler barrier_handler(const Instruction& instruction) {
  const std::size_t num_operands = instruction.operands.size();
  const bool sync = instruction.has("sync");
  if (instruction.has("cluster") || instruction.has("red")) fail("this barrier is not implemented");
  if (num_operands < (sync ? 1 : 2) || num_operands > 2) fail("a barrier with ", num_operands, " operands");
  if (sync) return barrier<true>;
  if (instruction.has("arrive")) return barrier<false>;
  fail("this barrier is not implemented");
}

}  // namespace

Handler control_handler(const Instruction& instruction) {
  if (instruction.op == "bra") return branch;
  if (instruction.op == "ret" || instruction.op == "exit") return leave;
  if (instruction.op == "trap") return trap;
  if (instruction.op == "nanosleep") return sleep;
  if (const Handler handler = exchange_handler(instruction); handler != nullptr) return handler;
  if (instruction.op == "bar" || instruction.op == "barrier") return barrier_handler(instruction);
  return nullptr;
}

}  // namespace ptx
