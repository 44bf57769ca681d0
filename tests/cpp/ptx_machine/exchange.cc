#include "ptx_machine/exchange.h"

#include <array>
#include <cstdint>

#include "ptx_machine/error.h"
#include "ptx_machine/warp.h"

namespace ptx {
namespace {

bool has(Mask lanes, int lane) { return (lanes >> lane & 1U) != 0; }

// What the .sync instructions share: lanes with the same member mask go on together once all its lanes that have not
// ended are here. Calls `exchange` with each such set; the others wait.
template <typename Exchange>
Outcome together(Warp& warp, const Operand& member_mask, Mask active, const Exchange& exchange) {
  Mask done = 0;
  Mask early = 0;
  for (Mask rest = active; rest != 0;) {
    const auto members = warp.read<Mask>(member_mask, __builtin_ctz(rest));
    Mask here = 0;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (has(rest, lane) && warp.read<Mask>(member_mask, lane) == members) here |= Mask{1} << lane;
    }
    rest &= ~here;
    if ((here & ~members) != 0) {
      fail(std::hex, "lanes 0x", here & ~members, " are not in the member mask 0x", members, " that they gave");
    }
    if ((members & warp.live() & ~here) != 0) {
      early |= here;
    } else {
      exchange(here);
      done |= here;
    }
  }
  if (early == 0) return Outcome::kDone;
  if (done != 0) warp.jump(done, warp.program_counter(__builtin_ctz(done)) + 1);
  return Outcome::kWait;
}

enum class Shuffle { kUp, kDown, kButterfly, kIndex };

struct Source {
  int lane = 0;
  bool in_range = false;
};

// The lane that `lane` reads from, as the manual has it. `bounds`: bits 0 to 4 the last lane (kUp: the first one) of a
// segment, bits 8 to 12 the bits of a lane number that name its segment.
template <Shuffle kMode>
Source source_of(int lane, std::uint32_t distance, std::uint32_t bounds) {
  const int b = static_cast<int>(distance & 31U);
  const int clamp = static_cast<int>(bounds & 31U);
  const int segment = static_cast<int>(bounds >> 8 & 31U);
  const int last = (lane & segment) | (clamp & ~segment);
  int from = 0;
  if constexpr (kMode == Shuffle::kUp) from = lane - b;
  if constexpr (kMode == Shuffle::kDown) from = lane + b;
  if constexpr (kMode == Shuffle::kButterfly) from = lane ^ b;
  if constexpr (kMode == Shuffle::kIndex) from = (lane & segment) | (b & ~segment);
  const bool in_range = kMode == Shuffle::kUp ? from >= last : from <= last;
  return {in_range ? from : lane, in_range};
}

// shfl.sync.mode.b32 d[|p], a, b, c, mask
template <Shuffle kMode, bool kPredicate>
Outcome shuffle(const Instruction& instruction, Warp& warp, Mask active) {
  const Operand* const operands = instruction.operands.data();
  const Operand* const sources = operands + (kPredicate ? 2 : 1);
  return together(warp, sources[3], active, [&](Mask here) {
    std::array<std::uint32_t, kWarpSize> values{};
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (has(here, lane)) values[static_cast<std::size_t>(lane)] = warp.read<std::uint32_t>(sources[0], lane);
    }
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (!has(here, lane)) continue;
      const Source source = source_of<kMode>(lane, warp.read<std::uint32_t>(sources[1], lane),
                                             warp.read<std::uint32_t>(sources[2], lane));
      if (!has(here, source.lane)) {
        fail("lane ", lane, " reads from lane ", source.lane, ", which does not take part or has ended");
      }
      warp.write(operands[0], lane, values[static_cast<std::size_t>(source.lane)]);
      if constexpr (kPredicate) warp.write(operands[1], lane, source.in_range);
    }
  });
}

template <bool kPredicate>
Handler shuffle_handler(const Instruction& instruction) {
  if (instruction.has("up")) return shuffle<Shuffle::kUp, kPredicate>;
  if (instruction.has("down")) return shuffle<Shuffle::kDown, kPredicate>;
  if (instruction.has("bfly")) return shuffle<Shuffle::kButterfly, kPredicate>;
  return shuffle<Shuffle::kIndex, kPredicate>;
}

enum class Vote { kAll, kAny, kUniform, kBallot };

// vote.sync.mode.pred p, a, mask; vote.sync.ballot.b32 d, a, mask
template <Vote kMode>
Outcome vote(const Instruction& instruction, Warp& warp, Mask active) {
  const auto& operands = instruction.operands;
  return together(warp, operands[2], active, [&](Mask here) {
    Mask ayes = 0;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (has(here, lane) && (warp.bits(operands[1], lane) & 1U) != 0) ayes |= Mask{1} << lane;
    }
    std::uint32_t result = ayes;
    if constexpr (kMode == Vote::kAll) result = ayes == here;
    if constexpr (kMode == Vote::kAny) result = ayes != 0;
    if constexpr (kMode == Vote::kUniform) result = ayes == here || ayes == 0;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (has(here, lane)) warp.write(operands[0], lane, result);
    }
  });
}

Outcome active_mask(const Instruction& instruction, Warp& warp, Mask active) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (has(active, lane)) warp.write(instruction.operands[0], lane, active);
  }
  return Outcome::kDone;
}

Outcome sync_warp(const Instruction& instruction, Warp& warp, Mask active) {
  return together(warp, instruction.operands[0], active, [](Mask) {});
}

}  // namespace

Handler exchange_handler(const Instruction& instruction) {
  const std::size_t num_operands = instruction.operands.size();
  if (instruction.op == "shfl") {
    if (!instruction.has("sync") || !instruction.has("b32") || num_operands < 5 || num_operands > 6) {
      fail("only shfl.sync.mode.b32 is implemented");
    }
    return num_operands == 6 ? shuffle_handler<true>(instruction) : shuffle_handler<false>(instruction);
  }
  if (instruction.op == "vote") {
    if (!instruction.has("sync") || num_operands != 3) fail("only vote.sync is implemented");
    if (instruction.has("all")) return vote<Vote::kAll>;
    if (instruction.has("any")) return vote<Vote::kAny>;
    if (instruction.has("uni")) return vote<Vote::kUniform>;
    if (instruction.has("ballot")) return vote<Vote::kBallot>;
    fail("this vote is not implemented");
  }
  if (instruction.op == "activemask") return active_mask;
  if (instruction.op == "bar" && instruction.has("warp")) return sync_warp;
  return nullptr;
}

}  // namespace ptx
