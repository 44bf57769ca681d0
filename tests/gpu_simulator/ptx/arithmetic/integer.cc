#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "ptx/arithmetic/arithmetic.h"
#include "ptx/error.h"
#include "ptx/form.h"

namespace ptx {
namespace {

__extension__ using Int128 = __int128;
__extension__ using Uint128 = unsigned __int128;

// All of it modulo 2^bits: computed in 64 bits without a sign, of which the low ones are right.
template <typename T>
std::uint64_t wide(T value) {
  return static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
}

template <typename T>
T add(T a, T b) {
  return static_cast<T>(wide(a) + wide(b));
}
template <typename T>
T subtract(T a, T b) {
  return static_cast<T>(wide(a) - wide(b));
}
template <typename T>
T negate(T a) {
  return static_cast<T>(0 - wide(a));
}
template <typename T>
T magnitude(T a) {
  return a < 0 ? negate(a) : a;
}

template <typename T>
T clamp(std::int64_t value) {
  return static_cast<T>(std::clamp<std::int64_t>(value, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
}
std::int32_t add_saturated(std::int32_t a, std::int32_t b) {
  return clamp<std::int32_t>(std::int64_t{a} + std::int64_t{b});
}
std::int32_t subtract_saturated(std::int32_t a, std::int32_t b) {
  return clamp<std::int32_t>(std::int64_t{a} - std::int64_t{b});
}

template <typename T>
T multiply_low(T a, T b) {
  return static_cast<T>(wide(a) * wide(b));
}
template <typename T>
T multiply_high(T a, T b) {
  using Product = std::conditional_t<std::is_signed_v<T>, Int128, Uint128>;
  return static_cast<T>(static_cast<Product>(a) * static_cast<Product>(b) >> (8 * sizeof(T)));
}

template <typename T>
struct Twice;
template <>
struct Twice<std::int16_t> {
  using Type = std::int32_t;
};
template <>
struct Twice<std::uint16_t> {
  using Type = std::uint32_t;
};
template <>
struct Twice<std::int32_t> {
  using Type = std::int64_t;
};
template <>
struct Twice<std::uint32_t> {
  using Type = std::uint64_t;
};

template <typename T>
typename Twice<T>::Type multiply_wide(T a, T b) {
  return static_cast<typename Twice<T>::Type>(wide(a) * wide(b));
}

template <typename T>
T mad_low(T a, T b, T c) {
  return add(multiply_low(a, b), c);
}
template <typename T>
T mad_high(T a, T b, T c) {
  return add(multiply_high(a, b), c);
}
template <typename T>
typename Twice<T>::Type mad_wide(T a, T b, typename Twice<T>::Type c) {
  return add(multiply_wide(a, b), c);
}

template <typename T>
T divide(T a, T b) {
  if (b == 0) fail("an integer is divided by zero");
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return negate(a);  // C++ does not define it of the least
  return static_cast<T>(a / b);
}
template <typename T>
T remainder(T a, T b) {
  if (b == 0) fail("a remainder of a division by zero");
  if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
  return static_cast<T>(a % b);
}

template <typename T>
T least(T a, T b) {
  return std::min(a, b);
}
template <typename T>
T greatest(T a, T b) {
  return std::max(a, b);
}

template <typename T>
T sum_of_differences(T a, T b, T c) {
  return add(c, a < b ? subtract(b, a) : subtract(a, b));
}

Handler add_or_subtract(Form& form, Type type, bool subtracts) {
  if (form.take("sat")) {
    if (type.kind != Type::Kind::kSigned || type.bits != 32) form.refuse();
    return subtracts ? form.lanewise<&subtract_saturated>() : form.lanewise<&add_saturated>();
  }
  return with_integer<false>(type, [&](auto zero) {
    using T = decltype(zero);
    return subtracts ? form.lanewise<&subtract<T>>() : form.lanewise<&add<T>>();
  });
}

// mul when `adds` is false, else mad.
Handler multiply(Form& form, Type type, bool adds) {
  const int part = form.take_one({"lo", "hi", "wide"});
  return with_integer<false>(type, [&](auto zero) -> Handler {
    using T = decltype(zero);
    if (part == 0) return adds ? form.lanewise<&mad_low<T>>() : form.lanewise<&multiply_low<T>>();
    if (part == 1) return adds ? form.lanewise<&mad_high<T>>() : form.lanewise<&multiply_high<T>>();
    if constexpr (sizeof(T) < 8) {
      if (part == 2) return adds ? form.lanewise<&mad_wide<T>>() : form.lanewise<&multiply_wide<T>>();
    }
    form.refuse();
  });
}

}  // namespace

Handler integer_handler(const Instruction& instruction) {
  const auto& op = instruction.op;
  const Type type = instruction.modifiers.empty() ? Type{} : type_of(instruction.modifiers.back());
  if (type.kind != Type::Kind::kSigned && type.kind != Type::Kind::kUnsigned) return nullptr;
  if (type.bits < 16) return nullptr;
  Form form(instruction);
  form.take_type();
  if (op == "add" || op == "sub") return add_or_subtract(form, type, op == "sub");
  if (op == "mul" || op == "mad") return multiply(form, type, op == "mad");
  return with_integer<false>(type, [&](auto zero) -> Handler {
    using T = decltype(zero);
    if (op == "div") return form.lanewise<&divide<T>>();
    if (op == "rem") return form.lanewise<&remainder<T>>();
    if (op == "neg") return form.lanewise<&negate<T>>();
    if (op == "abs") return form.lanewise<&magnitude<T>>();
    if (op == "min") return form.lanewise<&least<T>>();
    if (op == "max") return form.lanewise<&greatest<T>>();
    if (op == "sad") return form.lanewise<&sum_of_differences<T>>();
    return nullptr;
  });
}

}  // namespace ptx
