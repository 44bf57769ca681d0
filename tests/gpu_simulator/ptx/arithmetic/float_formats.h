#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "ptx/operands.h"

namespace ptx {

/// The bits of an IEEE half and of a bfloat16, and two of either in a register.
struct F16 {
  std::uint16_t bits;
};
struct BF16 {
  std::uint16_t bits;
};
template <typename T>
struct Pair {
  T low, high;
};

template <typename T>
constexpr bool kIsHalf = std::is_same_v<T, F16> || std::is_same_v<T, BF16>;

// Exact.
inline float widen(BF16 value) { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }
inline float widen(F16 value) {
  const std::uint32_t sign = (value.bits & 0x8000u) << 16, rest = value.bits & 0x7fffu;
  const float exponent_moved = std::bit_cast<float>(rest << 13) * 0x1p112f;  // of denormals too
  const std::uint32_t bits = rest >= 0x7c00 ? 0x7f800000u | rest << 13 : std::bit_cast<std::uint32_t>(exponent_moved);
  return std::bit_cast<float>(sign | bits);
}
inline float widen(float value) { return value; }
inline double widen(double value) { return value; }

template <typename T>
bool is_nan(T value) {
  return std::isnan(widen(value));
}

/// The NaN that arithmetic returns; that of f64 keeps the payload it has.
inline float canonical(float value) {
  return std::isnan(value) ? std::bit_cast<float>(std::uint32_t{0x7fffffff}) : value;
}
inline double canonical(double value) { return value; }
inline F16 canonical(F16 value) { return is_nan(value) ? F16{0x7fff} : value; }
inline BF16 canonical(BF16 value) { return is_nan(value) ? BF16{0x7fff} : value; }

/// The unsigned integer as wide as a float, of which the highest bit is the sign.
template <typename T>
using BitsOf =
    std::conditional_t<sizeof(T) == 2, std::uint16_t, std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>>;
template <typename T>
constexpr BitsOf<T> kSignOf = static_cast<BitsOf<T>>(BitsOf<T>{1} << (8 * sizeof(T) - 1));

/// What .ftz makes of an operand or a result: denormals become zeros of their sign.
template <bool kFtz, typename T>
T flushed(T value) {
  if constexpr (!kFtz) return value;
  constexpr BitsOf<T> exponent = std::is_same_v<T, F16>    ? static_cast<BitsOf<T>>(0x7c00)
                                 : std::is_same_v<T, BF16> ? static_cast<BitsOf<T>>(0x7f80)
                                 : sizeof(T) == 4          ? static_cast<BitsOf<T>>(0x7f800000)
                                                           : static_cast<BitsOf<T>>(0x7ff0000000000000);
  const auto bits = std::bit_cast<BitsOf<T>>(value);
  return (bits & exponent) == 0 ? std::bit_cast<T>(static_cast<BitsOf<T>>(bits & kSignOf<T>)) : value;
}

/// What .sat makes of a result: [0, 1], of NaN zero.
inline double saturated(double value) { return value > 0 ? (value < 1 ? value : 1) : 0; }

// Sums, quotients and roots "rounded to odd" in double: when not exact, the last bit is set. Rounded once more, to a
// format of at most 24 bits in any direction, they are as if they had been rounded once.

/// Of an operation's result to nearest and the sign of what that is too small by.
inline double odd(double nearest, double missing) {
  auto bits = std::bit_cast<std::uint64_t>(nearest);
  if (missing == 0 || !std::isfinite(nearest) || !std::isfinite(missing) || (bits & 1) != 0) return nearest;
  bits += (missing > 0) == (nearest > 0) ? std::uint64_t{1} : ~std::uint64_t{0};
  return std::bit_cast<double>(bits);
}
inline double odd_sum(double a, double b) {
  const double sum = a + b, b_part = sum - a;
  return odd(sum, (a - (sum - b_part)) + (b - b_part));  // Knuth's two-sum
}
inline double odd_quotient(double a, double b) {
  const double quotient = a / b, missing = std::fma(-quotient, b, a);
  return odd(quotient, b < 0 ? -missing : missing);
}
inline double odd_root(double a) {
  const double root = std::sqrt(a);
  return odd(root, std::fma(-root, root, a));
}

/// a * b + c rounded once.
inline float fma_nearest(float a, float b, float c) {
  const double product = static_cast<double>(a) * static_cast<double>(b);  // exact
  const double sum = product + static_cast<double>(c);
  // Only a sum halfway between two floats, or one near the denormals, can be rounded wrongly the second time.
  const auto bits = std::bit_cast<std::uint64_t>(sum);
  if ((bits & 0x1fffffff) != 0x10000000 && std::fabs(sum) > 0x1p-120) return static_cast<float>(sum);
  return static_cast<float>(odd_sum(product, static_cast<double>(c)));
}

/// Rounds a double (exact, or rounded to odd) to a 16-bit format: numbers too large become infinity or the largest
/// finite one as the direction says.
template <typename T>
T narrowed(double value, Rounding rounding) {
  static_assert(kIsHalf<T>);
  constexpr int kMantissa = std::is_same_v<T, F16> ? 10 : 7, kLeast = std::is_same_v<T, F16> ? -14 : -126;
  constexpr std::uint64_t kInfinity = std::is_same_v<T, F16> ? 0x7c00 : 0x7f80;
  if (std::isnan(value)) return {0x7fff};
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const bool negative = bits >> 63;
  const std::uint64_t magnitude = bits & ~kSignOf<double>;
  const auto with_sign = [&](std::uint64_t result) {
    return T{static_cast<std::uint16_t>(result | (negative ? 0x8000u : 0u))};
  };
  if (std::isinf(value)) return with_sign(kInfinity);

  const int exponent = static_cast<int>(magnitude >> 52) - 1023;
  const std::uint64_t mantissa = (magnitude & low_bits(52)) | (magnitude >> 52 != 0 ? std::uint64_t{1} << 52 : 0);
  int dropped = 52 - kMantissa;
  if (exponent < kLeast) dropped = std::min(dropped + kLeast - exponent, 54);
  const std::uint64_t rest = mantissa & low_bits(dropped), half = std::uint64_t{1} << (dropped - 1);
  std::uint64_t kept = mantissa >> dropped;
  bool up = false;
  switch (rounding) {
    case Rounding::kNearest: up = rest > half || (rest == half && (kept & 1) != 0); break;
    case Rounding::kZero: break;
    case Rounding::kDown: up = negative && rest != 0; break;
    case Rounding::kUp: up = !negative && rest != 0; break;
  }
  kept += up;
  if (exponent > kLeast) kept += static_cast<std::uint64_t>(exponent - kLeast) << kMantissa;  // carries move it on
  if (kept < kInfinity) return with_sign(kept);
  const bool to_infinity = rounding == Rounding::kNearest || rounding == (negative ? Rounding::kDown : Rounding::kUp);
  return with_sign(to_infinity ? kInfinity : kInfinity - 1);
}

/// A float to the nearest of a 16-bit format, ties to even.
template <typename T>
T nearest(float value);
template <>
inline BF16 nearest<BF16>(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return {0x7fff};
  return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
template <>
inline F16 nearest<F16>(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  std::uint32_t result;
  if (rest >= 0x477ff000) {  // from halfway between the largest one and the next power of two
    if (rest > 0x7f800000) return {0x7fff};
    result = 0x7c00;
  } else if (rest < 0x38800000) {  // denormal: 0.5 puts its last bit where a float's is, so adding rounds
    result = std::bit_cast<std::uint32_t>(std::bit_cast<float>(rest) + 0.5f) - 0x3f000000;
  } else {
    result = (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | result)};
}

}  // namespace ptx
