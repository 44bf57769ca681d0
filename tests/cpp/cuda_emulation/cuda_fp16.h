#pragma once

#include "cuda_runtime.h"

struct __half {
  std::uint16_t bits;
};
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return {bits}; }
inline float __half2float(__half x) {
  const float sign = (x.bits & 0x8000u) != 0 ? -1.0f : 1.0f;
  const int exponent = (x.bits >> 10) & 31;
  const auto fraction = static_cast<float>(x.bits & 1023);
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}
inline __half __float2half_rn(float x) {
  const std::uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  if (std::isnan(x)) return {0x7fff};
  if (size >= 65520.0f) return {static_cast<std::uint16_t>(sign | 0x7c00)};
  int exponent = size == 0 ? -14 : std::max(std::ilogb(size), -14);
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(size, 10 - exponent)));  // to even, 0 .. 2048
  const int bits = steps < 1024 ? steps : ((exponent + 14) << 10) + steps;  // 2048 carries into the exponent
  return {static_cast<std::uint16_t>(sign | bits)};
}
