#pragma once

#include <cstddef>
#include <initializer_list>
#include <string_view>
#include <type_traits>
#include <vector>

#include "ptx/instruction.h"
#include "ptx/operands.h"

namespace ptx {

/// An instruction's modifiers on the way to its handler: each is taken by the code that knows it, and one that is left, or a
/// wrong number of operands, makes it a form that is not implemented.
class Form {
 public:
  explicit Form(const Instruction& instruction);

  /// Whether the modifier is there; it is taken.
  bool take(std::string_view modifier);
  /// Index of the modifier that is there among some that exclude each other (it is taken), -1 when none is.
  int take_one(std::initializer_list<std::string_view> modifiers);
  /// Takes the last modifier, which must be a type.
  Type take_type();
  /// Takes .rn, .rz, .rm or .rp; to nearest when there is none.
  Rounding take_rounding();

  std::size_t operands() const { return instruction_.operands.size(); }
  /// The handler, once everything has been taken. Error when it is null.
  Handler with(Handler handler, std::size_t operands) const;
  /// The same of a function of the operands' values.
  template <auto kFunction, Rounding kRounding = Rounding::kNearest>
  Handler lanewise() const {
    using Family = Lanewise<kFunction, kRounding>;
    return with(&Family::run, Family::kOperands);
  }

  /// Error: this form of the instruction is not implemented.
  [[noreturn]] void refuse() const;

 private:
  const Instruction& instruction_;
  std::vector<std::string_view> rest_;
};

/// Calls `f` with true or false as a constant.
template <typename F>
Handler with_flag(bool flag, F&& f) {
  return flag ? f(std::true_type{}) : f(std::false_type{});
}

/// Calls `f` with the rounding as a constant.
template <typename F>
Handler with_rounding(Rounding rounding, F&& f) {
  switch (rounding) {
    case Rounding::kNearest: return f(std::integral_constant<Rounding, Rounding::kNearest>{});
    case Rounding::kZero: return f(std::integral_constant<Rounding, Rounding::kZero>{});
    case Rounding::kDown: return f(std::integral_constant<Rounding, Rounding::kDown>{});
    case Rounding::kUp: return f(std::integral_constant<Rounding, Rounding::kUp>{});
  }
  return nullptr;
}

/// Calls `f` with a zero of the integer type of 8 (where `with_bytes`), 16, 32 or 64 bits; null for other types.
template <bool with_bytes, typename F>
Handler with_integer(Type type, F&& f) {
  const bool is_signed = type.kind == Type::Kind::kSigned;
  if (!is_signed && type.kind != Type::Kind::kUnsigned) return nullptr;
  if constexpr (with_bytes) {
    if (type.bits == 8) return is_signed ? f(std::int8_t{}) : f(std::uint8_t{});
  }
  switch (type.bits) {
    case 16: return is_signed ? f(std::int16_t{}) : f(std::uint16_t{});
    case 32: return is_signed ? f(std::int32_t{}) : f(std::uint32_t{});
    case 64: return is_signed ? f(std::int64_t{}) : f(std::uint64_t{});
    default: return nullptr;
  }
}

/// Calls `f` with a zero of the unsigned type as wide as the type, a bool for a predicate; null for other widths.
template <typename F>
Handler with_width(Type type, F&& f) {
  switch (type.bits) {
    case 1: return f(bool{});
    case 8: return f(std::uint8_t{});
    case 16: return f(std::uint16_t{});
    case 32: return f(std::uint32_t{});
    case 64: return f(std::uint64_t{});
    default: return nullptr;
  }
}

}  // namespace ptx
