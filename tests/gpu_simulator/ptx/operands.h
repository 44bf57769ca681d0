#pragma once

#include <array>
#include <bit>
#include <cfenv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "ptx/instruction.h"
#include "ptx/warp.h"

namespace ptx {

/// A value out of the low bits of a register; of a predicate the lowest.
template <typename T>
T from_bits(std::uint64_t raw) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  if constexpr (std::is_same_v<T, bool>) {
    return (raw & 1) != 0;
  } else {
    T value;
    std::memcpy(&value, &raw, sizeof(T));
    return value;
  }
}

/// The bits of a value as a register holds them: zeros above.
template <typename T>
std::uint64_t to_bits(const T& value) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::uint64_t raw = 0;
  std::memcpy(&raw, &value, sizeof(T));
  return raw;
}

/// The low `width` bits.
constexpr std::uint64_t low_bits(int width) {
  return width >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << width) - 1;
}

/// Calls `each` with every lane of a mask, in order.
template <typename F>
void for_lanes(Mask active, F&& each) {
  if (active == ~Mask{0}) {
    for (std::size_t lane = 0; lane < kWarpSize; ++lane) each(lane);
  } else {
    for (; active != 0; active &= active - 1) each(static_cast<std::size_t>(std::countr_zero(active)));
  }
}

/// The values of an operand in all lanes: a register's where they lie, others copied once for an instruction.
class Source {
 public:
  Source(Warp& warp, const Operand& operand) {
    if (operand.kind == Operand::Kind::kRegister && !operand.inverted) {
      lanes_ = warp.registers(operand.reg).data();
    } else {
      copy(warp, operand);
    }
  }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  std::uint64_t operator[](std::size_t lane) const { return lanes_[lane]; }

 private:
  void copy(Warp& warp, const Operand& operand);

  const std::uint64_t* lanes_;
  Lanes copy_;  // only filled where lanes_ points at it
};

/// The lanes that an instruction writes: a register's, or none for a sink.
class Destination {
 public:
  Destination(Warp& warp, const Operand& operand)
      : lanes_(operand.kind == Operand::Kind::kRegister ? warp.registers(operand.reg).data() : ignored_.data()),
        mask_(low_bits(operand.width > 0 ? operand.width : 64)) {}
  Destination(const Destination&) = delete;
  Destination& operator=(const Destination&) = delete;

  std::uint64_t& operator[](std::size_t lane) { return lanes_[lane]; }
  /// The bits that the register has.
  std::uint64_t mask() const { return mask_; }

 private:
  std::uint64_t* lanes_;
  std::uint64_t mask_;
  Lanes ignored_;
};

/// A result whose sign fills the register where that is wider than the type (cvt, ld).
template <typename T>
struct Extended {
  T value;
};

/// How results are rounded that the type cannot hold.
enum class Rounding { kNearest, kZero, kDown, kUp };

/// Rounds the host's arithmetic as asked until its end.
template <Rounding kRounding>
class RoundingScope {
 public:
  RoundingScope() {
    if constexpr (kRounding != Rounding::kNearest) {
      std::fesetround(kRounding == Rounding::kZero   ? FE_TOWARDZERO
                      : kRounding == Rounding::kDown ? FE_DOWNWARD
                                                     : FE_UPWARD);
    }
  }
  ~RoundingScope() {
    if constexpr (kRounding != Rounding::kNearest) std::fesetround(FE_TONEAREST);
  }
  RoundingScope(const RoundingScope&) = delete;
  RoundingScope& operator=(const RoundingScope&) = delete;
};

/// A value that the compiler knows nothing about: what is computed from it stays behind the change of rounding.
template <typename T>
T opaque(T value) {
  asm volatile("" : "+m"(value) : : "memory");
  return value;
}

/// The handler of an instruction that is a function of each lane's values: `op d, a, b, ...` does d = kFunction(a, b,
/// ...) with operands of the function's types.
template <auto kFunction, Rounding kRounding = Rounding::kNearest>
struct Lanewise;

template <typename R, typename... A, R (*kFunction)(A...), Rounding kRounding>
struct Lanewise<kFunction, kRounding> {
  static constexpr std::size_t kOperands = 1 + sizeof...(A);

  static Outcome run(const Instruction& instruction, Warp& warp, Mask active) {
    return run(instruction, warp, active, std::index_sequence_for<A...>{});
  }

 private:
  template <std::size_t... kIndex>
  static Outcome run(const Instruction& instruction, Warp& warp, Mask active, std::index_sequence<kIndex...>) {
    const std::array<Source, sizeof...(A)> sources{Source(warp, instruction.operands[kIndex + 1])...};
    Destination destination(warp, instruction.operands[0]);
    const RoundingScope<kRounding> scope;
    for_lanes(active, [&](std::size_t lane) {
      if constexpr (kRounding == Rounding::kNearest) {
        destination[lane] = raw(kFunction(from_bits<A>(sources[kIndex][lane])...), destination.mask());
      } else {
        destination[lane] = raw(opaque(kFunction(opaque(from_bits<A>(sources[kIndex][lane]))...)), destination.mask());
      }
    });
    return Outcome::kDone;
  }
  template <typename T>
  static std::uint64_t raw(const T& value, std::uint64_t) {
    return to_bits(value);
  }
  template <typename T>
  static std::uint64_t raw(const Extended<T>& extended, std::uint64_t mask) {
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(extended.value)) & mask;
  }
};

}  // namespace ptx
