#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <type_traits>
#include <vector>

#include "ptx_machine/instruction.h"

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

  /// Value of an operand (register, immediate, special) in a lane, as bits; of an address: base + offset.
  std::uint64_t bits(const Operand& operand, int lane) const;
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
  std::int64_t program_counter(int lane) const { return counters_[static_cast<std::size_t>(lane)]; }

  /// Executes up to `most` instructions. False: all live lanes wait. Throws Error with kernel, line and lane.
  bool run(int most);

  // Asynchronous work of this warp's lanes. A cp.async of a lane belongs to the group that the lane commits next.
  struct CopyGroups {
    std::vector<std::function<void()>> open;               // not committed
    std::deque<std::vector<std::function<void()>>> closed;  // oldest first
  };
  CopyGroups& copies(int lane) { return copies_[static_cast<std::size_t>(lane)]; }
  /// Checks to be made when a wgmma ends, by committed group.
  CopyGroups& products() { return products_; }

 private:
  Cta& cta_;
  const Kernel& kernel_;
  int index_;
  std::vector<Lanes> registers_;
  std::array<std::int64_t, kWarpSize> counters_{};
  Mask live_ = 0;
  Mask deferred_ = 0;  // lanes whose last instruction yielded or waits
  std::vector<std::byte> local_;
  std::array<CopyGroups, kWarpSize> copies_;
  CopyGroups products_;
};

}  // namespace ptx
