#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <string_view>
#include <type_traits>

#include "ptx/arithmetic/arithmetic.h"
#include "ptx/arithmetic/float_formats.h"
#include "ptx/form.h"

namespace ptx {
namespace {

// Comparisons; those with a u hold for NaN too.
enum class Comparison { kEq, kNe, kLt, kLe, kGt, kGe, kEqu, kNeu, kLtu, kLeu, kGtu, kGeu, kNum, kNan };
constexpr std::string_view kComparisons[] = {"eq",  "ne",  "lt",  "le",  "gt",  "ge",  "equ",
                                             "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
enum class Combination { kAnd, kOr, kXor };

template <Comparison kComparison, typename T>
bool holds(T a, T b) {
  if constexpr (kIsHalf<T>) {
    return holds<kComparison>(widen(a), widen(b));
  } else {
    switch (kComparison) {
      case Comparison::kEq: return a == b;
      case Comparison::kNe: return a < b || a > b;
      case Comparison::kLt: return a < b;
      case Comparison::kLe: return a <= b;
      case Comparison::kGt: return a > b;
      case Comparison::kGe: return a >= b;
      case Comparison::kEqu: return !(a < b || a > b);
      case Comparison::kNeu: return !(a == b);
      case Comparison::kLtu: return !(a >= b);
      case Comparison::kLeu: return !(a > b);
      case Comparison::kGtu: return !(a <= b);
      case Comparison::kGeu: return !(a < b);
      case Comparison::kNum: return a == a && b == b;
      case Comparison::kNan: return !(a == a && b == b);
    }
  }
}

template <bool kFtz, typename T>
T operand(std::uint64_t raw) {
  if constexpr (std::is_integral_v<T>) {
    return from_bits<T>(raw);
  } else {
    return flushed<kFtz>(from_bits<T>(raw));
  }
}

// The lanes of `active` for which the comparison of two operands holds.
template <Comparison kComparison, bool kFtz, typename T>
[[gnu::noinline]] Mask compared(const Operand& left, const Operand& right, Warp& warp, Mask active) {
  const Source a(warp, left), b(warp, right);
  Mask result = 0;
  for_lanes(active, [&](std::size_t lane) {
    const bool value = holds<kComparison>(operand<kFtz, T>(a[lane]), operand<kFtz, T>(b[lane]));
    result |= static_cast<Mask>(value) << lane;
  });
  return result;
}

void assign(const Operand& to, Warp& warp, Mask active, Mask values) {
  Destination destination(warp, to);
  for_lanes(active, [&](std::size_t lane) { destination[lane] = values >> lane & 1; });
}

// setp p|q, a, b: p = a <> b, q = its contrary.
template <Comparison kComparison, bool kFtz, typename T>
Outcome set_predicates(const Instruction& instruction, Warp& warp, Mask active) {
  const auto& operands = instruction.operands;
  const Mask value = compared<kComparison, kFtz, T>(*(operands.end() - 2), operands.back(), warp, active);
  assign(operands[0], warp, active, value);
  if (operands.size() == 4) assign(operands[1], warp, active, ~value);
  return Outcome::kDone;
}

// setp p|q, a, b, c: both are combined with c.
Mask combined(Combination combination, Mask value, Mask with) {
  return combination == Combination::kAnd  ? value & with
         : combination == Combination::kOr ? value | with
                                           : value ^ with;
}
void assign_combined(const Instruction& instruction, Warp& warp, Mask active, Mask value, Combination combination) {
  const auto& operands = instruction.operands;
  const Source c(warp, operands.back());
  Mask with = 0;
  for_lanes(active, [&](std::size_t lane) { with |= static_cast<Mask>(c[lane] & 1) << lane; });
  assign(operands[0], warp, active, combined(combination, value, with));
  if (operands.size() == 5) assign(operands[1], warp, active, combined(combination, ~value, with));
}
template <Comparison kComparison, bool kFtz, typename T, Combination kCombination>
Outcome combine_predicates(const Instruction& instruction, Warp& warp, Mask active) {
  const auto& operands = instruction.operands;
  const Mask value = compared<kComparison, kFtz, T>(*(operands.end() - 3), *(operands.end() - 2), warp, active);
  assign_combined(instruction, warp, active, value, kCombination);
  return Outcome::kDone;
}

// set: where the comparison holds all ones, or 1.0f; else 0.
void assign_values(const Operand& to, Warp& warp, Mask active, Mask values, std::uint32_t if_true) {
  Destination destination(warp, to);
  for_lanes(active, [&](std::size_t lane) { destination[lane] = values >> lane & 1 ? if_true : 0; });
}
template <Comparison kComparison, bool kFtz, typename T, std::uint32_t kTrue>
Outcome set_values(const Instruction& instruction, Warp& warp, Mask active) {
  const auto& operands = instruction.operands;
  const Mask value = compared<kComparison, kFtz, T>(operands[1], operands[2], warp, active);
  assign_values(operands[0], warp, active, value, kTrue);
  return Outcome::kDone;
}

template <int kIndex = 0, typename F>
Handler with_comparison(int comparison, F&& f) {
  if constexpr (kIndex < static_cast<int>(std::size(kComparisons))) {
    if (comparison == kIndex) return f(std::integral_constant<Comparison, static_cast<Comparison>(kIndex)>{});
    return with_comparison<kIndex + 1>(comparison, f);
  } else {
    return nullptr;
  }
}

// Types that can be compared; of integers only the comparisons that know no NaN.
template <typename F>
Handler with_compared(Type type, F&& f) {
  if (type.kind == Type::Kind::kBFloat) return f(BF16{});
  if (type.kind != Type::Kind::kFloat) return with_integer<false>(type, f);
  return type.bits == 16 ? f(F16{}) : type.bits == 32 ? f(float{}) : f(double{});
}

int take_comparison(Form& form) {
  for (std::size_t i = 0; i < std::size(kComparisons); ++i) {
    if (form.take(kComparisons[i])) return static_cast<int>(i);
  }
  const int without_sign = form.take_one({"lo", "ls", "hi", "hs"});
  if (without_sign < 0) form.refuse();
  return static_cast<int>(Comparison::kLt) + without_sign;
}

template <Comparison kComparison, typename T, bool kFtz>
constexpr bool kExists =
    (!std::is_integral_v<T> || kComparison <= Comparison::kGe) && (!kFtz || std::is_same_v<T, float> || kIsHalf<T>);

Handler setp(Form& form) {
  const Type type = form.take_type();
  const bool flushes = form.take("ftz");
  const int comparison = take_comparison(form);
  const int combination = form.take_one({"and", "or", "xor"});
  const std::size_t sources = combination < 0 ? 2 : 3;
  const std::size_t operands = form.operands() == sources + 2 ? sources + 2 : sources + 1;
  const Handler handler = with_compared(type, [&](auto zero) {
    using T = decltype(zero);
    return with_flag(flushes, [&](auto ftz) {
      return with_comparison(comparison, [&](auto how) -> Handler {
        if constexpr (kExists<how(), T, ftz()>) {
          if (combination < 0) return &set_predicates<how(), ftz(), T>;
          switch (static_cast<Combination>(combination)) {
            case Combination::kAnd: return &combine_predicates<how(), ftz(), T, Combination::kAnd>;
            case Combination::kOr: return &combine_predicates<how(), ftz(), T, Combination::kOr>;
            case Combination::kXor: return &combine_predicates<how(), ftz(), T, Combination::kXor>;
          }
        }
        return nullptr;
      });
    });
  });
  return form.with(handler, operands);
}

Handler set(Form& form) {
  const Type type = form.take_type(), result = form.take_type();
  const bool flushes = form.take("ftz");
  const int comparison = take_comparison(form);
  if (result.bits != 32 || result.kind == Type::Kind::kBFloat) form.refuse();
  const bool to_float = result.kind == Type::Kind::kFloat;
  const Handler handler = with_compared(type, [&](auto zero) {
    using T = decltype(zero);
    return with_flag(flushes, [&](auto ftz) {
      return with_comparison(comparison, [&](auto how) -> Handler {
        if constexpr (kExists<how(), T, ftz()>) {
          return to_float ? &set_values<how(), ftz(), T, 0x3f800000> : &set_values<how(), ftz(), T, ~0u>;
        }
        return nullptr;
      });
    });
  });
  return form.with(handler, 3);
}

template <typename T>
T select(T a, T b, bool condition) {
  return condition ? a : b;
}
template <typename T, typename C>
T select_by_sign(T a, T b, C c) {
  return c >= 0 ? a : b;
}

}  // namespace

Handler compare_handler(const Instruction& instruction) {
  const std::string_view op = instruction.op;
  if (op != "setp" && op != "set" && op != "selp" && op != "slct") return nullptr;
  Form form(instruction);
  if (op == "setp") return setp(form);
  if (op == "set") return set(form);
  const Type last = form.take_type();
  const Type type = op == "slct" ? form.take_type() : last;
  if (type.bits < 16) form.refuse();
  const Handler handler = with_width(type, [&](auto zero) -> Handler {
    using T = decltype(zero);
    if (op == "selp") return form.lanewise<&select<T>>();
    if (last.bits != 32) form.refuse();
    return last.kind == Type::Kind::kFloat ? form.lanewise<&select_by_sign<T, float>>()
                                           : form.lanewise<&select_by_sign<T, std::int32_t>>();
  });
  return form.with(handler, form.operands());
}

}  // namespace ptx
