#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "ptx/error.h"
#include "ptx/testing/lanes_test.h"

namespace ptx {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::uint64_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }
std::uint64_t bits_of(double value) { return std::bit_cast<std::uint64_t>(value); }

class ConvertTest : public LanesTest {
 protected:
  // cvt.<types> from a register of one class to one of another.
  static std::uint64_t cvt(const std::string& types, const std::string& to, const std::string& from, std::uint64_t a) {
    return run_one(body_of("cvt." + types, to, {from}), a);
  }
};

TEST_F(ConvertTest, IntegersAreExtendedByTheirOwnSignAndTruncated) {
  EXPECT_EQ(cvt("s64.s32", "rd", "r", 0x80000000), 0xffffffff80000000u);
  EXPECT_EQ(cvt("u64.u32", "rd", "r", 0x80000000), 0x80000000u);
  EXPECT_EQ(cvt("u32.u64", "r", "rd", 0x123456789abcdef0), 0x9abcdef0u);
  EXPECT_EQ(cvt("u16.u32", "rs", "r", 0x12345678), 0x5678u);
  EXPECT_EQ(cvt("s32.s16", "r", "rs", 0x8001), 0xffff8001u);
  EXPECT_EQ(cvt("u32.u16", "r", "rs", 0x8001), 0x8001u);
  EXPECT_EQ(cvt("s32.s8", "r", "r", 0x1280), 0xffffff80u);
  EXPECT_EQ(cvt("s16.s8", "rs", "rs", 0x1280), 0xff80u);
  EXPECT_EQ(cvt("u32.u8", "r", "rs", 0x1280), 0x80u);
}

TEST_F(ConvertTest, ResultsNarrowerThanTheirRegisterFillItBySign) {
  EXPECT_EQ(cvt("s8.s32", "r", "r", 0x180), 0xffffff80u);
  EXPECT_EQ(cvt("u8.u32", "r", "r", 0x180), 0x80u);
  EXPECT_EQ(cvt("s16.s32", "r", "r", 0x18000), 0xffff8000u);
  EXPECT_EQ(cvt("s8.s32", "rs", "r", 0x180), 0xff80u);
}

TEST_F(ConvertTest, SatTakesTheNearestValueOfTheType) {
  EXPECT_EQ(cvt("sat.u8.s32", "r", "r", static_cast<std::uint32_t>(-5)), 0u);
  EXPECT_EQ(cvt("sat.u8.s32", "r", "r", 300), 255u);
  EXPECT_EQ(cvt("sat.s8.s32", "r", "r", 300), 127u);
  EXPECT_EQ(cvt("sat.s32.u32", "r", "r", 0x80000001), 0x7fffffffu);
  EXPECT_EQ(cvt("sat.f32.f32", "f", "f", bits_of(1.5f)), bits_of(1.0f));
  EXPECT_EQ(cvt("sat.f32.f32", "f", "f", bits_of(-1.5f)), 0u);
  EXPECT_EQ(cvt("sat.f32.f32", "f", "f", bits_of(NAN)), 0u);
  EXPECT_EQ(cvt("sat.f32.f32", "f", "f", bits_of(0.25f)), bits_of(0.25f));
}

TEST_F(ConvertTest, FloatsToIntegersRoundAsTheNameSaysAndClamp) {
  EXPECT_EQ(cvt("rni.s32.f32", "r", "f", bits_of(2.5f)), 2u);
  EXPECT_EQ(cvt("rni.s32.f32", "r", "f", bits_of(3.5f)), 4u);
  EXPECT_EQ(cvt("rzi.s32.f32", "r", "f", bits_of(-2.7f)), static_cast<std::uint32_t>(-2));
  EXPECT_EQ(cvt("rmi.s32.f32", "r", "f", bits_of(-2.1f)), static_cast<std::uint32_t>(-3));
  EXPECT_EQ(cvt("rpi.s32.f32", "r", "f", bits_of(2.1f)), 3u);
  EXPECT_EQ(cvt("rzi.s32.f32", "r", "f", bits_of(3e9f)), 0x7fffffffu);
  EXPECT_EQ(cvt("rzi.s32.f32", "r", "f", bits_of(-kInf)), 0x80000000u);
  EXPECT_EQ(cvt("rzi.u32.f32", "r", "f", bits_of(-1.0f)), 0u);
  EXPECT_EQ(cvt("rzi.u32.f32", "r", "f", bits_of(4e9f)), 4000000000u);
  EXPECT_EQ(cvt("rzi.u64.f64", "rd", "fd", bits_of(1e19)), 10000000000000000000u);
  EXPECT_EQ(cvt("rzi.s64.f32", "rd", "f", bits_of(kInf)), 0x7fffffffffffffffu);
  EXPECT_EQ(cvt("rpi.u32.f32", "r", "f", 1), 1u);
  EXPECT_EQ(cvt("rpi.ftz.u32.f32", "r", "f", 1), 0u);
  EXPECT_EQ(cvt("rzi.s32.f16", "r", "rs", 0xc500), static_cast<std::uint32_t>(-5));
  EXPECT_EQ(cvt("rzi.u8.f32", "r", "f", bits_of(300.0f)), 255u);
}

TEST_F(ConvertTest, NanBecomesZeroOrOnlyTheHighestBit) {
  EXPECT_EQ(cvt("rzi.s32.f32", "r", "f", bits_of(NAN)), 0u);
  EXPECT_EQ(cvt("rzi.s32.f64", "r", "fd", bits_of(std::nan(""))), 0x80000000u);
  EXPECT_EQ(cvt("rzi.u64.f32", "rd", "f", bits_of(NAN)), 1ull << 63);
}

TEST_F(ConvertTest, IntegersToFloatsAreRoundedOnce) {
  EXPECT_EQ(cvt("rn.f32.s32", "f", "r", 16777217), bits_of(16777216.0f));
  EXPECT_EQ(cvt("rp.f32.s32", "f", "r", 16777217), bits_of(16777218.0f));
  EXPECT_EQ(cvt("rz.f32.s32", "f", "r", static_cast<std::uint32_t>(-16777217)), bits_of(-16777216.0f));
  EXPECT_EQ(cvt("rm.f32.s32", "f", "r", static_cast<std::uint32_t>(-16777217)), bits_of(-16777218.0f));
  EXPECT_EQ(cvt("rn.f32.u32", "f", "r", 0xffffffff), bits_of(4294967296.0f));
  EXPECT_EQ(cvt("rn.f32.u64", "f", "rd", 0x8000008000000001), bits_of(0x1.000002p63f));
  EXPECT_EQ(cvt("rz.f32.u64", "f", "rd", ~0ull), bits_of(0x1.fffffep63f));
  EXPECT_EQ(cvt("rn.f32.s64", "f", "rd", ~0ull), bits_of(-1.0f));
  EXPECT_EQ(cvt("rn.f64.u64", "fd", "rd", ~0ull), bits_of(0x1p64));
  EXPECT_EQ(cvt("rn.f64.s32", "fd", "r", 0x80000000), bits_of(-2147483648.0));
  EXPECT_EQ(cvt("rn.f16.s32", "rs", "r", 2049), 0x6800u);
  EXPECT_EQ(cvt("rn.bf16.u64", "rs", "rd", 0x8080000000000001), 0x5f01u);
  EXPECT_EQ(cvt("rn.f32.u8", "f", "r", 0x1ff), bits_of(255.0f));
}

TEST_F(ConvertTest, FloatsOfDifferentWidthsAreExactUpwardsAndRoundedDownwards) {
  EXPECT_EQ(cvt("f32.f16", "f", "rs", 0x0001), bits_of(0x1p-24f));
  EXPECT_EQ(cvt("f32.f16", "f", "rs", 0xfc00), bits_of(-kInf));
  EXPECT_EQ(cvt("f32.f16", "f", "rs", 0x7e01), 0x7fffffffu);
  EXPECT_EQ(cvt("f32.bf16", "f", "rs", 0xbf80), bits_of(-1.0f));
  EXPECT_EQ(cvt("rn.f16.f32", "rs", "f", bits_of(1.0f + 0x1p-11f)), 0x3c00u);
  EXPECT_EQ(cvt("rz.f16.f32", "rs", "f", bits_of(-1e9f)), 0xfbffu);
  EXPECT_EQ(cvt("rn.bf16.f32", "rs", "f", bits_of(1.0f + 0x1.8p-8f)), 0x3f81u);
  EXPECT_EQ(cvt("rn.bf16.f32", "rs", "f", bits_of(-NAN)), 0x7fffu);
  EXPECT_EQ(cvt("f64.f32", "fd", "f", 1), bits_of(0x1p-149));
  EXPECT_EQ(cvt("ftz.f64.f32", "fd", "f", 0x80000001), bits_of(-0.0));
  EXPECT_EQ(cvt("rn.f32.f64", "f", "fd", bits_of(0.1)), bits_of(0.1f));
  EXPECT_EQ(cvt("rp.f32.f64", "f", "fd", bits_of(1e300)), bits_of(kInf));
  EXPECT_EQ(cvt("rz.f32.f64", "f", "fd", bits_of(1e300)), bits_of(std::numeric_limits<float>::max()));
  EXPECT_EQ(cvt("rn.f32.f64", "f", "fd", bits_of(0x1p-149)), 1u);
  EXPECT_EQ(cvt("rn.ftz.f32.f64", "f", "fd", bits_of(0x1p-149)), 0u);
  EXPECT_EQ(cvt("rn.f16.f64", "rs", "fd", bits_of(1 + 0x1p-11 + 0x1p-40)), 0x3c01u);  // not a tie
}

TEST_F(ConvertTest, FloatsAreRoundedToIntegersOfTheirOwnType) {
  EXPECT_EQ(cvt("rni.f32.f32", "f", "f", bits_of(2.5f)), bits_of(2.0f));
  EXPECT_EQ(cvt("rzi.f32.f32", "f", "f", bits_of(-0.5f)), bits_of(-0.0f));
  EXPECT_EQ(cvt("rmi.f32.f32", "f", "f", bits_of(-0.5f)), bits_of(-1.0f));
  EXPECT_EQ(cvt("rpi.f64.f64", "fd", "fd", bits_of(1.25)), bits_of(2.0));
  EXPECT_EQ(cvt("rni.f32.f32", "f", "f", bits_of(1e30f)), bits_of(1e30f));
}

TEST_F(ConvertTest, PairsHaveTheirFirstSourceInTheUpperHalf) {
  const auto pair = [&](const std::string& op, float a, float b) {
    return run_one(body_of(op, "r", {"f", "f"}), bits_of(a), bits_of(b));
  };
  EXPECT_EQ(pair("cvt.rn.f16x2.f32", 1.0f, 2.0f), 0x3c004000u);
  EXPECT_EQ(pair("cvt.rn.bf16x2.f32", 1.0f, -2.0f), 0x3f80c000u);
  EXPECT_EQ(pair("cvt.rz.bf16x2.f32", 1.0f + 0x1.fp-8f, 0.0f), 0x3f800000u);
}

TEST_F(ConvertTest, ARoundingToIntegersMustBeNamed) {
  EXPECT_THROW(Module::parse(kernel_text("cvt.s32.f32 %r0, %f1;")), Error);
  EXPECT_THROW(Module::parse(kernel_text("cvt.rn.relu.f16.f32 %rs0, %f1;")), Error);
}

}  // namespace
}  // namespace ptx
