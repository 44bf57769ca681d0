#include "ptx/memory/mbarrier.h"

#include <algorithm>
#include <string>

#include "ptx/error.h"

// Source: PTX ISA 9.0, 9.7.13.15 "mbarrier" (contents and ranges: .2, phases: .4, tx-count: .5, completion: .6).

namespace ptx {
namespace {

constexpr std::int64_t kMaxCount = (1 << 20) - 1;  // of arrivals and of transactions

std::string place(std::uint64_t address) { return "mbarrier at shared address " + std::to_string(address); }

// `state` of an arrival: the phase that it belonged to and the pending count before it.
std::uint64_t encode_state(const Cta::MBarrier& barrier) {
  return barrier.phase << 20 | static_cast<std::uint64_t>(barrier.pending);
}

void end_phase_if_complete(Cta& cta, Cta::MBarrier& barrier) {
  if (barrier.pending != 0 || barrier.pending_bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.expected;
  barrier.observed = false;
  cta.changed();
}

void arrive(Cta& cta, std::uint64_t address, Cta::MBarrier& barrier, std::int64_t count, bool no_complete) {
  if (count < 1 || count > kMaxCount) fail("arrival count ", count, " on the ", place(address));
  if (!barrier.observed) {
    fail("arrival on the ", place(address), " in phase ", barrier.phase, " before any wait has seen the end of phase ",
         barrier.phase - 1);
  }
  if (count > barrier.pending) {
    fail(count, " arrivals on the ", place(address), ", which expects ", barrier.pending, " more in phase ",
         barrier.phase);
  }
  barrier.pending -= count;
  if (no_complete && barrier.pending == 0 && barrier.pending_bytes == 0) {
    fail("mbarrier.arrive.noComplete ends phase ", barrier.phase, " of the ", place(address));
  }
  end_phase_if_complete(cta, barrier);
}

template <typename Body>
Outcome each_lane(Mask active, const Body& body) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((active >> lane & 1U) != 0) body(lane);
  }
  return Outcome::kDone;
}

template <bool kGeneric>
Outcome init(const Instruction& instruction, Warp& warp, Mask active) {
  Cta& cta = warp.cta();
  return each_lane(active, [&](int lane) {
    const std::uint64_t address = shared_address(cta, warp.bits(instruction.operands[0], lane), kGeneric);
    const auto count = static_cast<std::int64_t>(warp.read<std::uint32_t>(instruction.operands[1], lane));
    cta.shared(address, 8, 8);
    if (count < 1 || count > kMaxCount) fail("mbarrier.init with count ", count);
    if (!cta.mbarriers().emplace(address, Cta::MBarrier{.expected = count, .pending = count}).second) {
      fail("mbarrier.init over the live ", place(address), ": it must be invalidated first");
    }
  });
}

template <bool kGeneric>
Outcome invalidate(const Instruction& instruction, Warp& warp, Mask active) {
  Cta& cta = warp.cta();
  return each_lane(active, [&](int lane) {
    const std::uint64_t address = shared_address(cta, warp.bits(instruction.operands[0], lane), kGeneric);
    live_mbarrier(cta, address);
    cta.mbarriers().erase(address);
  });
}

enum class Arrival { kPlain, kExpect, kNoComplete, kDrop };

template <bool kGeneric, Arrival kKind>
Outcome arrival(const Instruction& instruction, Warp& warp, Mask active) {
  Cta& cta = warp.cta();
  const auto& operands = instruction.operands;
  return each_lane(active, [&](int lane) {
    const std::uint64_t address = shared_address(cta, warp.bits(operands[1], lane), kGeneric);
    Cta::MBarrier& barrier = live_mbarrier(cta, address);
    const std::uint32_t number = operands.size() > 2 ? warp.read<std::uint32_t>(operands[2], lane) : 1;
    warp.write(operands[0], lane, encode_state(barrier));
    if constexpr (kKind == Arrival::kExpect) expect_transactions(barrier, number);
    if constexpr (kKind == Arrival::kDrop) {
      if (number >= barrier.expected) fail("mbarrier.arrive_drop leaves the ", place(address), " no thread to expect");
      barrier.expected -= number;
    }
    arrive(cta, address, barrier, kKind == Arrival::kExpect ? 1 : number, kKind == Arrival::kNoComplete);
  });
}

template <bool kGeneric, bool kComplete>
Outcome transactions(const Instruction& instruction, Warp& warp, Mask active) {
  Cta& cta = warp.cta();
  return each_lane(active, [&](int lane) {
    const std::uint64_t address = shared_address(cta, warp.bits(instruction.operands[0], lane), kGeneric);
    const auto bytes = warp.read<std::uint32_t>(instruction.operands[1], lane);
    if constexpr (kComplete) {
      complete_transactions(cta, address, bytes);
    } else {
      expect_transactions(live_mbarrier(cta, address), bytes);
    }
  });
}

// Whether the phase asked for has ended: it is the current one, which has not, or the one before it, which has. A
// parity names the one of those two that has it; before phase 0 comes one of parity 1, which has ended.
template <bool kParity>
bool has_ended(const Cta::MBarrier& barrier, std::uint64_t address, std::uint64_t asked) {
  if constexpr (kParity) {
    asked &= 0xffffffffU;
    if (asked > 1) fail("phase parity ", asked, " asked of the ", place(address), ": it is 0 or 1");
    return (barrier.phase & 1) != asked;
  }
  const std::uint64_t phase = asked >> 20;
  if (phase != barrier.phase && phase + 1 != barrier.phase) {
    fail("wait for phase ", phase, " of the ", place(address), ", which is in phase ", barrier.phase);
  }
  return phase != barrier.phase;
}

template <bool kGeneric, bool kParity>
Outcome wait(const Instruction& instruction, Warp& warp, Mask active) {
  Cta& cta = warp.cta();
  bool in_vain = false;
  each_lane(active, [&](int lane) {
    const std::uint64_t address = shared_address(cta, warp.bits(instruction.operands[1], lane), kGeneric);
    Cta::MBarrier& barrier = live_mbarrier(cta, address);
    const bool ended = has_ended<kParity>(barrier, address, warp.bits(instruction.operands[2], lane));
    if (ended) barrier.observed = true;
    in_vain |= !ended;
    warp.write(instruction.operands[0], lane, static_cast<std::uint64_t>(ended));
  });
  return in_vain ? Outcome::kYield : Outcome::kDone;
}

Outcome pending_count(const Instruction& instruction, Warp& warp, Mask active) {
  return each_lane(active, [&](int lane) {
    warp.write(instruction.operands[0], lane, warp.bits(instruction.operands[1], lane) & kMaxCount);
  });
}

template <bool kGeneric>
Handler choose(const Instruction& instruction) {
  const auto taking = [&](std::size_t least, std::size_t most, Handler handler) {
    const std::size_t operands = instruction.operands.size();
    if (operands < least || operands > most) refuse(instruction, "wrong number of operands");
    return handler;
  };
  const std::string& action = instruction.modifiers.front();
  if (action == "init") return taking(2, 2, init<kGeneric>);
  if (action == "inval") return taking(1, 1, invalidate<kGeneric>);
  if (action == "expect_tx") return taking(2, 2, transactions<kGeneric, false>);
  if (action == "complete_tx") return taking(2, 2, transactions<kGeneric, true>);
  if (action == "arrive") {
    if (instruction.has("expect_tx")) return taking(3, 3, arrival<kGeneric, Arrival::kExpect>);
    if (instruction.has("noComplete")) return taking(3, 3, arrival<kGeneric, Arrival::kNoComplete>);
    return taking(2, 3, arrival<kGeneric, Arrival::kPlain>);
  }
  if (action == "arrive_drop" && !instruction.has("expect_tx") && !instruction.has("noComplete")) {
    return taking(2, 3, arrival<kGeneric, Arrival::kDrop>);
  }
  if (action == "test_wait" || action == "try_wait") {
    const std::size_t most = action == "try_wait" ? 4 : 3;  // the last is a hint
    return taking(3, most, instruction.has("parity") ? wait<kGeneric, true> : wait<kGeneric, false>);
  }
  refuse(instruction, "not implemented");
}

}  // namespace

bool addresses_are_generic(const Instruction& instruction) {
  return !instruction.has("shared") && !instruction.has("shared::cta") && !instruction.has("shared::cluster");
}

Cta::MBarrier& live_mbarrier(Cta& cta, std::uint64_t address) {
  const auto found = cta.mbarriers().find(address);
  if (found == cta.mbarriers().end()) fail("no mbarrier object lives at shared address ", address);
  return found->second;
}

void expect_transactions(Cta::MBarrier& barrier, std::int64_t bytes) {
  if (bytes > kMaxCount || barrier.pending_bytes + bytes > kMaxCount) {
    fail("expect-tx of ", bytes, " on an mbarrier that waits for ", barrier.pending_bytes, ": at most ", kMaxCount);
  }
  barrier.pending_bytes += bytes;
}

void complete_transactions(Cta& cta, std::uint64_t address, std::int64_t bytes) {
  Cta::MBarrier& barrier = live_mbarrier(cta, address);
  if (barrier.pending_bytes - bytes < -kMaxCount) fail("tx-count of the ", place(address), " falls below its range");
  barrier.pending_bytes -= bytes;
  end_phase_if_complete(cta, barrier);
}

void refuse(const Instruction& instruction, const char* why) {
  fail("line ", instruction.line, ": ", instruction.name(), ": ", why);
}

void require_known(const Instruction& instruction, std::initializer_list<std::string_view> modifiers) {
  for (const std::string& modifier : instruction.modifiers) {
    if (std::find(modifiers.begin(), modifiers.end(), modifier) == modifiers.end())
      refuse(instruction, "not implemented");
  }
}

Handler mbarrier_handler(const Instruction& instruction) {
  if (instruction.op != "mbarrier" || instruction.modifiers.empty()) return nullptr;
  require_known(instruction,
                {"init",      "inval",    "arrive", "arrive_drop",   "expect_tx",       "complete_tx", "noComplete",
                 "test_wait", "try_wait", "parity", "pending_count", "release",         "acquire",     "relaxed",
                 "cta",       "cluster",  "shared", "shared::cta",   "shared::cluster", "b64"});
  if (instruction.modifiers.front() == "pending_count") return pending_count;
  return addresses_are_generic(instruction) ? choose<true>(instruction) : choose<false>(instruction);
}

}  // namespace ptx
