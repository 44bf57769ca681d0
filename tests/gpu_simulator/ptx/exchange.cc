#include "ptx/exchange.h"

#include <array>
#include <cstdint>

#include "ptx/error.h"
#include "ptx/operands.h"
#include "ptx/warp.h"

namespace ptx {
namespace {

bool has(Mask lanes, int lane) { return (lanes >> lane & 1U) != 0; }

// What the .sync instructions share: lanes with the same member mask go on together once all its lanes that have not
// ended are here. Calls `exchange` with each such set; the others wait.
template <typename Exchange>
Outcome together(Warp& warp, const Operand& member_mask, Mask active, const Exchange& exchange) {
  const Source masks(warp, member_mask);
  Mask done = 0;
  Mask early = 0;
  for (Mask rest = active; rest != 0;) {
    const auto members = from_bits<Mask>(masks[static_cast<std::size_t>(__builtin_ctz(rest))]);
    Mask here = 0;
    for (std::size_t lane = 0; lane < kWarpSize; ++lane) {
      here |= static_cast<Mask>(from_bits<Mask>(masks[lane]) == members) << lane;
    }
    here &= rest;
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

struct Origin {
  int lane = 0;
  bool in_range = false;
};

// The lane that `lane` reads from, as the manual has it. `bounds`: bits 0 to 4 the last lane (kUp: the first one) of a
// segment, bits 8 to 12 the bits of a lane number that name its segment.
template <Shuffle kMode>
Origin origin_of(int lane, std::uint64_t distance, std::uint64_t bounds) {
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
    const Source values(warp, sources[0]);
    const Source distances(warp, sources[1]);
    const Source bounds(warp, sources[2]);
    std::array<Origin, kWarpSize> origins;
    Lanes results;  // nothing is written before all is read: d may be a, b or c
    for_lanes(here, [&](std::size_t lane) {
      const Origin origin = origin_of<kMode>(static_cast<int>(lane), distances[lane], bounds[lane]);
      if (!has(here, origin.lane)) {
        fail("lane ", lane, " reads from lane ", origin.lane, ", which does not take part or has ended");
      }
      origins[lane] = origin;
      results[lane] = from_bits<std::uint32_t>(values[static_cast<std::size_t>(origin.lane)]);
    });
    Destination destination(warp, operands[0]);
    for_lanes(here, [&](std::size_t lane) { destination[lane] = results[lane]; });
    if constexpr (kPredicate) {
      Destination predicate(warp, operands[1]);
      for_lanes(here, [&](std::size_t lane) { predicate[lane] = origins[lane].in_range; });
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
