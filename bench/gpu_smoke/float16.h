#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "base/dtype.h"

// Values of the model's dtypes on the host, as their bits.

namespace fastserve::smoke {

inline std::uint32_t to_bits(float x, DType dtype) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (dtype == DType::kFloat32) return bits;
  if (dtype == DType::kBFloat16) return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  // fp16, for values that are neither NaN nor too large: scaling makes the hardware round to 11 bits, subnormals too.
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const float magnitude = std::fabs(x);
  if (magnitude < 6.103515625e-05f) return sign | static_cast<std::uint32_t>(std::lrint(magnitude * 16777216.0f));
  const auto absolute = bits & 0x7fffffffu;
  return sign | ((absolute + 0xfffu + (absolute >> 13 & 1) - 0x38000000u) >> 13);
}

inline float from_bits(std::uint32_t bits, DType dtype) {
  if (dtype == DType::kFloat32) return std::bit_cast<float>(bits);
  if (dtype == DType::kBFloat16) return std::bit_cast<float>(bits << 16);
  const std::uint32_t exponent = bits >> 10 & 31;
  const std::uint32_t fraction = bits & 0x3ff;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 0) return sign * static_cast<float>(fraction) * 0x1p-24f;
  if (exponent == 31) return fraction != 0 ? NAN : sign * INFINITY;
  return sign * std::ldexp(static_cast<float>(fraction | 0x400), static_cast<int>(exponent) - 25);
}

}  // namespace fastserve::smoke
