#include "ptx/arithmetic/float_formats.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

namespace ptx {
namespace {

// A 16-bit float read by its definition.
double value_of(std::uint32_t bits, int mantissa_bits, int bias) {
  const int exponent = static_cast<int>(bits & 0x7fff) >> mantissa_bits;
  const double fraction = std::ldexp(static_cast<double>(bits & ((1u << mantissa_bits) - 1)), -mantissa_bits);
  const double magnitude = exponent == 0 ? std::ldexp(fraction, 1 - bias) : std::ldexp(1 + fraction, exponent - bias);
  return bits & 0x8000 ? -magnitude : magnitude;
}

TEST(FloatFormatsTest, EveryHalfIsWidenedExactly) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float wide = widen(F16{static_cast<std::uint16_t>(bits)});
    if ((bits & 0x7fff) > 0x7c00) {
      EXPECT_TRUE(std::isnan(wide));
    } else if ((bits & 0x7fff) == 0x7c00) {
      EXPECT_TRUE(std::isinf(wide) && std::signbit(wide) == (bits >> 15));
    } else {
      ASSERT_EQ(static_cast<double>(wide), value_of(bits, 10, 15)) << bits;
      ASSERT_EQ(std::signbit(wide), bits >> 15);
    }
  }
}

// The neighbours of a value among the finite numbers of a format, by counting down from the largest.
template <typename T>
std::uint32_t by_search(double value, Rounding rounding, int mantissa_bits, int bias, std::uint32_t infinity) {
  const std::uint32_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(value);
  std::uint32_t below = 0, above = infinity;
  while (above - below > 1) {
    const std::uint32_t middle = (below + above) / 2;
    (value_of(middle, mantissa_bits, bias) <= magnitude ? below : above) = middle;
  }
  const double low = value_of(below, mantissa_bits, bias), high = value_of(above, mantissa_bits, bias);
  if (magnitude == low) return sign | below;
  switch (rounding) {
    case Rounding::kZero: return sign | below;
    case Rounding::kDown: return sign | (sign != 0 ? above : below);
    case Rounding::kUp: return sign | (sign != 0 ? below : above);
    case Rounding::kNearest: break;
  }
  if (magnitude - low == high - magnitude) return sign | (below & 1 ? above : below);
  return sign | (magnitude - low < high - magnitude ? below : above);
}

TEST(FloatFormatsTest, NarrowingIsTheNeighbourThatTheDirectionSays) {
  std::mt19937 random(7);
  constexpr Rounding kAll[] = {Rounding::kNearest, Rounding::kZero, Rounding::kDown, Rounding::kUp};
  for (int i = 0; i < 20000; ++i) {
    const int exponent = static_cast<int>(random() % 48) - 28;
    double value = std::ldexp(static_cast<double>(random() % 8192 + 1), exponent - 10);
    if (random() % 4 == 0) value *= 1 + std::ldexp(1.0, -30);
    if (random() % 2 == 0) value = -value;
    const auto single = static_cast<float>(value);
    for (const Rounding rounding : kAll) {
      ASSERT_EQ(narrowed<F16>(value, rounding).bits, by_search<F16>(value, rounding, 10, 15, 0x7c00)) << value;
      ASSERT_EQ(narrowed<BF16>(value, rounding).bits, by_search<BF16>(value, rounding, 7, 127, 0x7f80)) << value;
    }
    ASSERT_EQ(nearest<F16>(single).bits, narrowed<F16>(single, Rounding::kNearest).bits) << single;
    ASSERT_EQ(nearest<BF16>(single).bits, narrowed<BF16>(single, Rounding::kNearest).bits) << single;
  }
}

TEST(FloatFormatsTest, NumbersTooLargeBecomeInfinityOnlyWhereTheDirectionLeadsThere) {
  EXPECT_EQ(nearest<F16>(65519.0f).bits, 0x7bff);
  EXPECT_EQ(nearest<F16>(65520.0f).bits, 0x7c00);
  EXPECT_EQ(nearest<F16>(-1e30f).bits, 0xfc00);
  EXPECT_EQ(narrowed<F16>(1e30, Rounding::kZero).bits, 0x7bff);
  EXPECT_EQ(narrowed<F16>(-1e30, Rounding::kUp).bits, 0xfbff);
  EXPECT_EQ(narrowed<F16>(-1e30, Rounding::kDown).bits, 0xfc00);
  EXPECT_EQ(narrowed<F16>(1e-30, Rounding::kUp).bits, 0x0001);
  EXPECT_EQ(nearest<F16>(std::numeric_limits<float>::infinity()).bits, 0x7c00);
  EXPECT_EQ(nearest<F16>(-std::numeric_limits<float>::quiet_NaN()).bits, 0x7fff);
  EXPECT_EQ(nearest<BF16>(std::numeric_limits<float>::quiet_NaN()).bits, 0x7fff);
  EXPECT_EQ(nearest<BF16>(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_EQ(nearest<BF16>(std::bit_cast<float>(1u)).bits, 0);
  EXPECT_EQ(narrowed<BF16>(std::bit_cast<float>(1u), Rounding::kUp).bits, 1);
}

TEST(FloatFormatsTest, FusedMultiplyAddIsRoundedOnce) {
  std::mt19937 random(11);
  const auto draw = [&] {
    const std::uint32_t kind = random() % 4;
    if (kind == 0) return std::bit_cast<float>(static_cast<std::uint32_t>(random()));  // any exponent, NaN, infinity
    const auto mantissa = static_cast<float>(static_cast<std::int32_t>(random() % 65536) - 32768);
    return std::ldexp(mantissa, static_cast<int>(random() % (kind == 1 ? 8 : 150)) - (kind == 3 ? 100 : 20));
  };
  for (int i = 0; i < 2000000; ++i) {
    const float a = draw(), b = draw(), c = random() % 2 == 0 ? draw() : -a * b * (1 + std::ldexp(1.0f, -20));
    const float expected = std::fma(a, b, c), got = fma_nearest(a, b, c);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(got));
    } else {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(got), std::bit_cast<std::uint32_t>(expected)) << a << ' ' << b << ' ' << c;
    }
  }
}

}  // namespace
}  // namespace ptx
