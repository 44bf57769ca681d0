#include <cstring>
#include <utility>

#include "ptx/cta.h"
#include "ptx/error.h"
#include "ptx/memory/mbarrier.h"

// Source: PTX ISA 9.0, 9.7.9.25.3 "Non-bulk copy" (cp.async and its groups), 9.7.13.4 "membar / fence".

namespace ptx {
namespace {

// Non-bulk copies belong to the generic proxy, as stores do: what they wrote is marked as stored when it is waited for,
// also if it was there before, so that a proxy fence in front of the wait does not count.
struct Landed {
  Warp* warp;
  std::uint32_t destination;
  std::uint32_t num_bytes;
  void operator()() const { warp->cta().stored(*warp, destination, num_bytes); }
};

struct Landing {
  Warp* warp;
  std::uint64_t source;
  std::uint32_t destination;
  std::uint16_t num_bytes;
  std::uint16_t source_bytes;  // the bytes behind them become 0

  void copy() const {
    std::byte* to = warp->cta().shared(destination, num_bytes, num_bytes);
    if (source_bytes != 0) std::memcpy(to, reinterpret_cast<const void*>(source), source_bytes);
    if (source_bytes < num_bytes) std::memset(to + source_bytes, 0, static_cast<std::size_t>(num_bytes - source_bytes));
  }
  void operator()() const {
    copy();
    Landed{warp, destination, num_bytes}();
  }
};

enum class Source { kWhole, kSized, kIgnored };

template <bool kGeneric, Source kSource>
Outcome copy(const Instruction& instruction, Warp& warp, Mask active) {
  Cta& cta = warp.cta();
  const auto& operands = instruction.operands;
  const std::uint64_t num_bytes = operands[2].value;
  const std::uint64_t chance = cta.random()();
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((active >> lane & 1U) == 0) continue;
    const std::uint64_t destination = shared_address(cta, warp.bits(operands[0], lane), kGeneric);
    const std::uint64_t source = warp.bits(operands[1], lane);
    std::uint64_t source_bytes = num_bytes;
    if constexpr (kSource == Source::kSized) source_bytes = warp.read<std::uint32_t>(operands[3], lane);
    if constexpr (kSource == Source::kIgnored) source_bytes = (warp.bits(operands[3], lane) & 1) != 0 ? 0 : num_bytes;
    if (source_bytes > num_bytes) fail("cp.async of ", num_bytes, " bytes out of ", source_bytes);
    if (source % num_bytes != 0)
      fail("cp.async of ", num_bytes, " bytes from address ", source, ", not aligned to them");
    if (source_bytes != 0 && source < 4096) fail("cp.async reads global address ", source);
    std::byte* to = cta.shared(destination, num_bytes, num_bytes);
    std::memset(to, 0xff, num_bytes);  // undefined until the copy is waited for
    const Landing landing{&warp, source, static_cast<std::uint32_t>(destination), static_cast<std::uint16_t>(num_bytes),
                          static_cast<std::uint16_t>(source_bytes)};
    auto& open = warp.copies(lane).open;
    if ((chance >> lane & 1U) != 0) {
      landing.copy();
      open.emplace_back(Landed{&warp, landing.destination, landing.num_bytes});
    } else {
      open.emplace_back(landing);
    }
  }
  return Outcome::kDone;
}

void commit(Warp::CopyGroups& groups) {
  groups.closed.push_back(std::move(groups.open));
  groups.open.clear();
}

void wait_for_all_but(Warp::CopyGroups& groups, std::size_t most) {
  while (groups.closed.size() > most) {
    for (const auto& landing : groups.closed.front()) landing();
    groups.closed.pop_front();
  }
}

Outcome commit_group(const Instruction&, Warp& warp, Mask active) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((active >> lane & 1U) != 0) commit(warp.copies(lane));
  }
  return Outcome::kDone;
}

template <bool kAll>
Outcome wait_group(const Instruction& instruction, Warp& warp, Mask active) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((active >> lane & 1U) == 0) continue;
    if constexpr (kAll) commit(warp.copies(lane));
    wait_for_all_but(warp.copies(lane), kAll ? 0 : instruction.operands[0].value);
  }
  return Outcome::kDone;
}

Outcome fence_async(const Instruction&, Warp& warp, Mask) {
  warp.cta().proxy_fence(warp);
  return Outcome::kDone;
}

Outcome nothing(const Instruction&, Warp&, Mask) { return Outcome::kDone; }

template <bool kGeneric>
Handler choose_copy(const Instruction& instruction) {
  require_known(instruction, {"async", "ca", "cg", "shared", "shared::cta", "global", "L2::cache_hint", "L2::64B",
                              "L2::128B", "L2::256B"});
  // A cache policy (.L2::cache_hint) is the last operand, and only a hint.
  const std::size_t operands = instruction.operands.size() - (instruction.has("L2::cache_hint") ? 1 : 0);
  if (!instruction.has("global") || operands < 3 || operands > 4) refuse(instruction, "not implemented");
  const std::uint64_t num_bytes = instruction.operands[2].value;
  const bool ca = instruction.has("ca") && (num_bytes == 4 || num_bytes == 8 || num_bytes == 16);
  const bool cg = instruction.has("cg") && num_bytes == 16;
  if (!ca && !cg) refuse(instruction, "copies 4, 8 or 16 bytes, with .cg only 16");
  if (operands == 3) return copy<kGeneric, Source::kWhole>;
  return instruction.operands[3].width == 1 ? copy<kGeneric, Source::kIgnored> : copy<kGeneric, Source::kSized>;
}

Handler copy_handler(const Instruction& instruction) {
  if (instruction.has("bulk")) return bulk_copy_handler(instruction);
  if (instruction.has("commit_group")) return commit_group;
  if (instruction.has("wait_all")) return wait_group<true>;
  if (instruction.has("wait_group")) {
    if (instruction.operands.size() != 1) refuse(instruction, "wrong number of operands");
    return wait_group<false>;
  }
  if (instruction.has("mbarrier")) refuse(instruction, "not implemented");
  return addresses_are_generic(instruction) ? choose_copy<true>(instruction) : choose_copy<false>(instruction);
}

// fence.proxy.async{.global, .shared::{cta, cluster}}; fence.mbarrier_init orders inits before other CTAs' arrivals.
Handler fence_handler(const Instruction& instruction) {
  if (instruction.has("mbarrier_init")) {
    const bool known = instruction.has("release") && instruction.has("cluster");
    if (!known) refuse(instruction, "not implemented");
    return nothing;
  }
  if (!instruction.has("proxy")) return nullptr;
  require_known(instruction, {"proxy", "async", "global", "shared::cta", "shared::cluster"});
  if (!instruction.has("async")) refuse(instruction, "not implemented");
  return instruction.has("global") ? nothing : fence_async;
}

}  // namespace

Handler async_copy_handler(const Instruction& instruction) {
  if (instruction.op == "cp" && instruction.has("async")) return copy_handler(instruction);
  if (instruction.op == "prefetch" && instruction.has("tensormap")) return bulk_copy_handler(instruction);
  if (instruction.op == "fence") return fence_handler(instruction);
  return mbarrier_handler(instruction);
}

}  // namespace ptx
