#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "ptx/error.h"
#include "ptx/instruction.h"

namespace ptx {

class Cta;
struct Kernel;

/// The values of a register in the lanes of a warp; a type of fewer than 64 bits lies in the low ones, the others are 0.
using Lanes = std::array<std::uint64_t, kWarpSize>;

/// 32 threads of a CTA: registers, program counters, local memory, copies under way.
class Warp {
 public:
  Warp(Cta& cta, const Kernel& kernel, int index, int num_threads);

  Cta& cta() { return cta_; }
  const Kernel& kernel() const { return kernel_; }
  int index() const { return index_; }  // within the CTA
  Lanes& registers(int index) { return registers_[static_cast<std::size_t>(index)]; }

  /// Value of an operand (register, immediate, special) in a lane, as bits; of an address: base + offset; of an inverted
  /// predicate (`!%p`): inverted.
  std::uint64_t bits(const Operand& operand, int lane) const {
    if (operand.kind == Operand::Kind::kRegister) [[likely]] {
      const std::uint64_t value = registers_[static_cast<std::size_t>(operand.reg)][static_cast<std::size_t>(lane)];
      return operand.inverted ? value ^ 1 : value;
    }
    if (operand.kind == Operand::Kind::kImmediate) return operand.value;
    return other_bits(operand, lane);
  }
  template <typename T>
  T read(const Operand& operand, int lane) const {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
    const std::uint64_t raw = bits(operand, lane);
    T value;
    std::memcpy(&value, &raw, sizeof(T));
    return value;
  }
  /// Sets a register in a lane; a sink takes it and forgets it.
  template <typename T>
  void write(const Operand& operand, int lane, T value) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
    if (operand.kind == Operand::Kind::kSink) return;
    std::uint64_t raw = 0;
    std::memcpy(&raw, &value, sizeof(T));
    registers(operand.reg)[static_cast<std::size_t>(lane)] = raw;
  }

  std::byte* local(int lane);

  // Control flow: every lane has a program counter of its own; the lanes that execute together are those of the
  // smallest one that are not held (see run()).
  Mask live() const { return live_; }  // lanes that have not ended
  void jump(Mask lanes, std::int64_t target);
  void end(Mask lanes);
  std::int64_t program_counter(int lane) const {
    return (group_ >> lane & 1U) != 0 ? counter_ : counters_[static_cast<std::size_t>(lane)];
  }

  /// Executes up to `most` instructions. False: all live lanes wait. Throws Error with kernel, line and lane.
  bool run(int most);
  std::int64_t executed() const { return executed_; }  // instructions, not those that waited
  /// Whether one of its last instructions was in vain (Outcome::kYield).
  bool spinning() const { return executed_ - last_yield_ < 64; }
  /// Where its live lanes are, for errors: "warp 2: lanes 0xffffffff at line 17 bar.sync".
  std::string where() const;

  // Asynchronous work of this warp's lanes. A cp.async of a lane belongs to the group that the lane commits next.
  struct CopyGroups {
    std::vector<std::function<void()>> open;                // not committed
    std::deque<std::vector<std::function<void()>>> closed;  // oldest first
  };
  CopyGroups& copies(int lane) {
    if (copies_.empty()) copies_.resize(kWarpSize);
    return copies_[static_cast<std::size_t>(lane)];
  }
  /// Checks to be made when a wgmma ends, by committed group.
  CopyGroups& products() {
    if (products_.empty()) products_.resize(1);
    return products_.front();
  }

 private:
  std::uint64_t other_bits(const Operand& operand, int lane) const;
  std::uint64_t special(SpecialRegister name, int lane) const;
  enum class Turn { kGoOn, kYielded, kStuck };         // kYielded, kStuck: there is no lane that need not wait
  Mask guarded(const Instruction& instruction) const;  // lanes of group_ that its guard lets through
  Turn regroup();
  void finish(Outcome outcome, Mask group, Mask active);  // unless kDone
  [[noreturn]] void rethrow(const Error& error) const;

  Cta& cta_;
  const Kernel& kernel_;
  int index_;
  std::vector<Lanes> registers_;
  std::array<std::int64_t, kWarpSize> counters_{};  // of the lanes outside group_
  Mask live_ = 0;
  Mask deferred_ = 0;         // lanes whose last instruction yielded or waits
  Mask group_ = 0;            // lanes that execute together,
  std::int64_t counter_ = 0;  // at this instruction,
  std::int64_t stop_ = 0;     // until it is this one: then regroup()
  std::int64_t executed_ = 0;
  std::int64_t last_yield_ = -(1 << 30);
  std::int64_t lifted_at_ = -1;   // executed_ when deferral was last lifted
  bool has_retried_ = false;      // in this run(): what lanes wait for may have come since the last one
  std::int64_t diverged_at_ = 0;  // executed_ when the live lanes were last together
  std::vector<std::byte> local_;
  std::vector<CopyGroups> copies_;    // by lane; none before the first is asked for: they take long to make
  std::vector<CopyGroups> products_;  // one, or none: the same
};

}  // namespace ptx
