#include "ptx/warp.h"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <ios>
#include <limits>
#include <memory>
#include <sstream>

#include "ptx/cta.h"
#include "ptx/error.h"
#include "ptx/parser/module.h"

namespace ptx {
namespace {

constexpr Mask kAllLanes = ~Mask{0};
constexpr std::int64_t kFar = std::numeric_limits<std::int64_t>::max();
// Instructions after which diverged lanes that are first in the text let the others go on, as lanes of a GPU may count
// on: those at the beginning of a loop may wait for what the others do behind it.
constexpr std::int64_t kMostDiverged = 1 << 17;

bool has(Mask lanes, int lane) { return (lanes >> lane & 1U) != 0; }

std::string demangled(const std::string& name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(name.c_str(), nullptr, nullptr, &status),
                                                         &std::free);
  return status == 0 ? text.get() : name;
}

}  // namespace

Warp::Warp(Cta& cta, const Kernel& kernel, int index, int num_threads)
    : cta_(cta),
      kernel_(kernel),
      index_(index),
      registers_(static_cast<std::size_t>(kernel.num_registers)),
      local_(kernel.local_bytes * kWarpSize, std::byte{0xff}) {
  live_ = num_threads >= kWarpSize ? kAllLanes : (Mask{1} << num_threads) - 1;
  group_ = live_;
  stop_ = kFar;
}

std::uint64_t Warp::other_bits(const Operand& operand, int lane) const {
  if (operand.kind == Operand::Kind::kAddress) {
    return operand.value +
           (operand.reg < 0 ? 0 : registers_[static_cast<std::size_t>(operand.reg)][static_cast<std::size_t>(lane)]);
  }
  if (operand.kind != Operand::Kind::kSpecial) fail("an operand has no value: it is a vector, a label or _");
  return special(static_cast<SpecialRegister>(operand.value), lane);
}

std::uint64_t Warp::special(SpecialRegister name, int lane) const {
  using enum SpecialRegister;
  const Dim3 block = cta_.block;
  const auto thread = static_cast<unsigned>(index_ * kWarpSize + lane);
  const Mask self = Mask{1} << lane;
  switch (name) {
    case kTidX: return thread % block.x;
    case kTidY: return thread / block.x % block.y;
    case kTidZ: return thread / block.x / block.y;
    case kNtidX: return block.x;
    case kNtidY: return block.y;
    case kNtidZ: return block.z;
    case kCtaidX: return cta_.index.x;
    case kCtaidY: return cta_.index.y;
    case kCtaidZ: return cta_.index.z;
    case kNctaidX: return cta_.grid.x;
    case kNctaidY: return cta_.grid.y;
    case kNctaidZ: return cta_.grid.z;
    case kLaneid: return static_cast<unsigned>(lane);
    case kWarpid: return static_cast<unsigned>(index_);
    case kNwarpid: return cta_.warps().size();
    case kLanemaskEq: return self;
    case kLanemaskLt: return self - 1;
    case kLanemaskLe: return self | (self - 1);
    case kLanemaskGt: return ~(self | (self - 1));
    case kLanemaskGe: return ~(self - 1);
    case kGlobaltimer:
    case kClock64: return static_cast<std::uint64_t>(executed_);  // time is what it has executed: 1 ns each
  }
  fail("the special register ", static_cast<int>(name), " is not implemented");
}

std::byte* Warp::local(int lane) { return local_.data() + kernel_.local_bytes * static_cast<std::size_t>(lane); }

void Warp::jump(Mask lanes, std::int64_t target) {
  if (lanes == group_) {
    counter_ = target;
    if (group_ != live_) stop_ = 0;
    return;
  }
  if (group_ == live_) diverged_at_ = executed_;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (has(lanes, lane)) counters_[static_cast<std::size_t>(lane)] = target;
  }
  group_ &= ~lanes;
  stop_ = 0;
}

void Warp::end(Mask lanes) {
  live_ &= ~lanes;
  group_ &= ~lanes;
  deferred_ &= ~lanes;
  stop_ = 0;
  cta_.changed();  // barriers no longer wait for them
}

Mask Warp::guarded(const Instruction& instruction) const {
  const Lanes& predicate = registers_[static_cast<std::size_t>(instruction.guard)];
  Mask lanes = 0;
  for (std::size_t lane = 0; lane < kWarpSize; ++lane) lanes |= static_cast<Mask>(predicate[lane] & 1U) << lane;
  return group_ & (instruction.guard_inverted ? ~lanes : lanes);
}

// The lanes that go on: of those not deferred, the ones that are first in the text, and those at the same place.
Warp::Turn Warp::regroup() {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (has(group_, lane)) counters_[static_cast<std::size_t>(lane)] = counter_;
  }
  Turn turn = Turn::kGoOn;
  if ((live_ & ~deferred_) == 0) {
    if (last_yield_ > lifted_at_) {
      turn = Turn::kYielded;
    } else if (executed_ == lifted_at_ && has_retried_) {
      turn = Turn::kStuck;
    }
    lifted_at_ = executed_;
    has_retried_ = true;
    deferred_ = 0;
  } else if (executed_ - diverged_at_ > kMostDiverged && (live_ & ~deferred_ & ~group_) != 0) {
    diverged_at_ = executed_;
    deferred_ |= group_;
  }
  counter_ = kFar;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (has(live_ & ~deferred_, lane)) counter_ = std::min(counter_, counters_[static_cast<std::size_t>(lane)]);
  }
  group_ = 0;
  stop_ = kFar;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!has(live_, lane)) continue;
    const std::int64_t counter = counters_[static_cast<std::size_t>(lane)];
    if (counter == counter_) group_ |= Mask{1} << lane;
    if (counter > counter_) stop_ = std::min(stop_, counter);
  }
  deferred_ &= ~group_;
  return turn;
}

bool Warp::run(int most) {
  const Instruction* const code = kernel_.code.data();
  has_retried_ = false;
  try {
    for (; most > 0 && live_ != 0; --most) {
      if (counter_ >= stop_) {
        const Turn turn = regroup();
        if (turn != Turn::kGoOn) return turn == Turn::kYielded;
      }
      const Instruction& instruction = code[counter_];
      const Mask group = group_;
      const Mask active = instruction.guard < 0 ? group : guarded(instruction);
      Outcome outcome = Outcome::kDone;
      if (active != 0) {
        const bool early = instruction.aligned && active != live_;
        outcome = early ? Outcome::kWait : instruction.run(instruction, *this, active);
      }
      if (outcome == Outcome::kDone) [[likely]] {
        ++counter_;
        ++executed_;
      } else {
        finish(outcome, group, active);
      }
    }
  } catch (const Error& error) {
    rethrow(error);
  }
  return true;
}

void Warp::finish(Outcome outcome, Mask group, Mask active) {
  if (outcome == Outcome::kWait) {
    const Mask others = group_ & ~active;
    if (others != 0) jump(others, counter_ + 1);
    deferred_ |= group_ & active;
    stop_ = 0;
    return;
  }
  ++executed_;
  if (outcome == Outcome::kYield) {
    ++counter_;
    last_yield_ = executed_;
    deferred_ |= active;
    stop_ = 0;
  } else if (active != group) {
    ++counter_;  // those that the guard kept
  }
}

void Warp::rethrow(const Error& error) const {
  const auto at = static_cast<std::size_t>(counter_);
  const Instruction& instruction = kernel_.code[at];
  const Mask active = instruction.guard < 0 ? group_ : guarded(instruction);
  const Dim3 index = cta_.index;
  fail(demangled(kernel_.name), ", PTX line ", instruction.line, ", ", instruction.name(), ", CTA (", index.x, ", ",
       index.y, ", ", index.z, "), warp ", index_, ", lanes 0x", std::hex, active, ": ", error.what());
}

std::string Warp::where() const {
  std::ostringstream text;
  text << "warp " << index_ << ':';
  for (Mask rest = live_; rest != 0;) {
    const std::int64_t counter = program_counter(__builtin_ctz(rest));
    Mask lanes = 0;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (has(rest, lane) && program_counter(lane) == counter) lanes |= Mask{1} << lane;
    }
    rest &= ~lanes;
    const Instruction& instruction = kernel_.code[static_cast<std::size_t>(counter)];
    text << " lanes 0x" << std::hex << lanes << std::dec << " at line " << instruction.line << ' ' << instruction.name()
         << (rest != 0 ? "," : "");
  }
  return text.str();
}

}  // namespace ptx
