#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include "ptx/testing/lanes_test.h"

namespace ptx {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr std::uint64_t kNan = 0x7fffffff;

std::uint64_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }
std::uint64_t bits_of(double value) { return std::bit_cast<std::uint64_t>(value); }
float denormal() { return std::bit_cast<float>(1u); }

class FloatingTest : public LanesTest {
 protected:
  static std::uint64_t f(const std::string& op, float a) { return run_one(body_of(op, "f", {"f"}), bits_of(a)); }
  static std::uint64_t f(const std::string& op, float a, float b) {
    return run_one(body_of(op, "f", {"f", "f"}), bits_of(a), bits_of(b));
  }
  static std::uint64_t f(const std::string& op, float a, float b, float c) {
    return run_one(body_of(op, "f", {"f", "f", "f"}), bits_of(a), bits_of(b), bits_of(c));
  }
  static std::uint64_t fd(const std::string& op, double a, double b) {
    return run_one(body_of(op, "fd", {"fd", "fd"}), bits_of(a), bits_of(b));
  }
};

TEST_F(FloatingTest, ArithmeticIsIeeeWithTheCanonicalNan) {
  EXPECT_EQ(f("add.f32", 1.5f, 2.25f), bits_of(3.75f));
  EXPECT_EQ(f("sub.rn.f32", 1.0f, 3.0f), bits_of(-2.0f));
  EXPECT_EQ(f("mul.f32", 3.0f, -0.5f), bits_of(-1.5f));
  EXPECT_EQ(f("div.rn.f32", 1.0f, 3.0f), bits_of(1.0f / 3.0f));
  EXPECT_EQ(f("add.f32", kInf, -kInf), kNan);
  EXPECT_EQ(f("mul.f32", 0.0f, kInf), kNan);
  EXPECT_EQ(f("div.rn.f32", 0.0f, 0.0f), kNan);
  EXPECT_EQ(f("div.rn.f32", -1.0f, 0.0f), bits_of(-kInf));
  EXPECT_EQ(f("sqrt.rn.f32", -1.0f), kNan);
  EXPECT_EQ(f("rcp.rn.f32", -0.0f), bits_of(-kInf));
  EXPECT_EQ(fd("add.f64", 0.1, 0.2), bits_of(0.1 + 0.2));
  EXPECT_EQ(fd("add.rn.f64", 1e300, 1e300), bits_of(2e300));
  EXPECT_EQ(fd("sub.f64", 1.0, 3.0), bits_of(-2.0));
  EXPECT_EQ(fd("mul.f64", 0.1, 0.1), bits_of(0.1 * 0.1));
  EXPECT_EQ(fd("div.rn.f64", 1.0, 3.0), bits_of(1.0 / 3.0));
  EXPECT_EQ(run_one("add.f32 %f0, %f1, 0f3F800000; mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;", bits_of(2.0f)),
            bits_of(3.0f));
  EXPECT_EQ(run_one("fma.rn.f64 %fd0, %fd1, %fd2, 0dBFF0000000000000; mov.b64 %rd0, %fd0;", bits_of(1 + 0x1p-30),
                    bits_of(1 - 0x1p-30)),
            bits_of(-0x1p-60));
}

TEST_F(FloatingTest, ProductsAndSumsAreNotContracted) {
  const float a = 1 + 0x1p-12f;
  const std::string body = "mul.f32 %f0, %f1, %f1; sub.f32 %f0, %f0, %f2; mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;";
  EXPECT_EQ(run_one(body, bits_of(a), bits_of(1 + 0x1p-11f)), bits_of(0.0f));
  EXPECT_EQ(f("fma.rn.f32", a, a, -(1 + 0x1p-11f)), bits_of(0x1p-24f));
}

TEST_F(FloatingTest, DirectionsOfRoundingAreThoseOfTheName) {
  const float ulp = 0x1p-23f, tiny = 0x1p-40f;
  EXPECT_EQ(f("add.rn.f32", 1.0f, tiny), bits_of(1.0f));
  EXPECT_EQ(f("add.rp.f32", 1.0f, tiny), bits_of(1.0f + ulp));
  EXPECT_EQ(f("add.rm.f32", 1.0f, tiny), bits_of(1.0f));
  EXPECT_EQ(f("add.rm.f32", -1.0f, -tiny), bits_of(-1.0f - ulp));
  EXPECT_EQ(f("add.rz.f32", -1.0f, -tiny), bits_of(-1.0f));
  EXPECT_EQ(f("fma.rm.f32", -1.0f, tiny, -1.0f), bits_of(-1.0f - ulp));
  EXPECT_EQ(f("fma.rp.f32", 1.0f, tiny, 1.0f), bits_of(1.0f + ulp));
  EXPECT_EQ(f("fma.rz.f32", 1.0f, -tiny, 1.0f), bits_of(1.0f - ulp / 2));
  EXPECT_EQ(f("mul.rz.f32", 0x1.fffffep127f, 2.0f), bits_of(0x1.fffffep127f));
  EXPECT_EQ(f("mul.rp.f32", 0x1.fffffep127f, 2.0f), bits_of(kInf));
  EXPECT_EQ(f("rcp.rm.f32", 3.0f), bits_of(std::nextafter(1.0f / 3.0f, 0.0f)));  // to nearest it is above a third
  EXPECT_EQ(f("sqrt.rz.f32", 2.0f), bits_of(0x1.6a09e6p+0f));
  EXPECT_EQ(f("sqrt.rp.f32", 2.0f), bits_of(0x1.6a09e8p+0f));
  EXPECT_EQ(fd("add.rp.f64", 1.0, 0x1p-80), bits_of(1.0 + 0x1p-52));
  EXPECT_EQ(fd("mul.rz.f64", 1 + 0x1p-52, 1 + 0x1p-52), bits_of(1 + 0x1p-51));
}

TEST_F(FloatingTest, DirectedFmaIsTheNeighbourOfTheExactResult) {
  std::mt19937 random(3);
  std::vector<Values> columns(3);
  Values down, up;
  for (int i = 0; i < 1000; ++i) {
    const auto draw = [&](int num_bits, int exponent) {
      const auto integer = static_cast<std::int32_t>(random() % (1u << num_bits)) - (1 << (num_bits - 1));
      return std::ldexp(static_cast<float>(integer), exponent);
    };
    const float a = draw(24, -20), b = draw(24, -20), c = draw(24, -30);
    columns[0].push_back(bits_of(a));
    columns[1].push_back(bits_of(b));
    columns[2].push_back(bits_of(c));
    const double exact = static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c);  // within 53 bits
    const auto near = static_cast<float>(exact);
    down.push_back(bits_of(static_cast<double>(near) > exact ? std::nextafter(near, -kInf) : near));
    up.push_back(bits_of(static_cast<double>(near) < exact ? std::nextafter(near, kInf) : near));
  }
  EXPECT_EQ(run(body_of("fma.rm.f32", "f", {"f", "f", "f"}), columns), down);
  EXPECT_EQ(run(body_of("fma.rp.f32", "f", {"f", "f", "f"}), columns), up);
}

TEST_F(FloatingTest, FtzMakesDenormalsZerosOfTheirSign) {
  EXPECT_EQ(f("add.f32", denormal(), 0.0f), bits_of(denormal()));
  EXPECT_EQ(f("add.ftz.f32", denormal(), 0.0f), 0u);
  EXPECT_EQ(f("mul.f32", 0x1p-100f, -0x1p-30f), bits_of(-0x1p-130f));
  EXPECT_EQ(f("mul.ftz.f32", 0x1p-100f, -0x1p-30f), bits_of(-0.0f));
  EXPECT_EQ(f("mul.ftz.f32", -denormal(), kInf), kNan);
  EXPECT_EQ(f("fma.rn.ftz.f32", denormal(), 0x1p100f, -1.0f), bits_of(-1.0f));
  EXPECT_EQ(f("neg.ftz.f32", denormal()), bits_of(-0.0f));
  EXPECT_EQ(f("abs.ftz.f32", -denormal()), 0u);
  EXPECT_EQ(f("max.ftz.f32", -1.0f, -denormal()), bits_of(-0.0f));
}

TEST_F(FloatingTest, SatClampsToZeroAndOneAndMakesNanZero) {
  EXPECT_EQ(f("add.sat.f32", 1.0f, 1.0f), bits_of(1.0f));
  EXPECT_EQ(f("add.sat.f32", -1.0f, 0.5f), 0u);
  EXPECT_EQ(f("mul.sat.f32", 0.0f, kInf), 0u);
  EXPECT_EQ(f("fma.rn.sat.f32", 0.5f, 0.5f, 0.25f), bits_of(0.5f));
}

TEST_F(FloatingTest, MinAndMaxIgnoreNanAndOrderZeros) {
  EXPECT_EQ(f("min.f32", NAN, 1.0f), bits_of(1.0f));
  EXPECT_EQ(f("max.f32", 1.0f, NAN), bits_of(1.0f));
  EXPECT_EQ(f("max.f32", NAN, -NAN), kNan);
  EXPECT_EQ(f("max.NaN.f32", 1.0f, NAN), kNan);
  EXPECT_EQ(f("min.f32", 0.0f, -0.0f), bits_of(-0.0f));
  EXPECT_EQ(f("min.f32", -0.0f, 0.0f), bits_of(-0.0f));
  EXPECT_EQ(f("max.f32", -0.0f, 0.0f), 0u);
  EXPECT_EQ(f("max.f32", -kInf, -3.0f), bits_of(-3.0f));
  EXPECT_EQ(fd("min.f64", 2.0, -3.0), bits_of(-3.0));
}

TEST_F(FloatingTest, SignsAreChangedAndCopied) {
  EXPECT_EQ(f("neg.f32", 0.0f), bits_of(-0.0f));
  EXPECT_EQ(f("abs.f32", -kInf), bits_of(kInf));
  EXPECT_EQ(f("copysign.f32", -2.0f, 3.0f), bits_of(-3.0f));  // the sign of the first
  EXPECT_EQ(f("copysign.f32", 2.0f, -3.0f), bits_of(3.0f));
  EXPECT_EQ(run_one(body_of("neg.f64", "fd", {"fd"}), bits_of(1.0)), bits_of(-1.0));
}

TEST_F(FloatingTest, ApproximateDivisionHasItsRangesEnds) {
  EXPECT_EQ(f("div.approx.f32", 1.0f, 4.0f), bits_of(0.25f));
  EXPECT_EQ(f("div.approx.f32", 1.0f, 0x1p127f), 0u);
  EXPECT_EQ(f("div.approx.f32", kInf, 0x1p127f), kNan);
  EXPECT_EQ(f("div.full.f32", 0x1p127f, 0x1p127f), bits_of(1.0f));
}

TEST_F(FloatingTest, HalvesAreComputedOnceRounded) {
  const auto h = [&](const std::string& op, std::uint64_t a, std::uint64_t b) {
    return run_one(body_of(op, "rs", {"rs", "rs"}), a, b);
  };
  EXPECT_EQ(h("add.f16", 0x3c00, 0x1000), 0x3c00u);  // 1 + 2^-11: a tie, to even
  EXPECT_EQ(h("add.f16", 0x3c00, 0x1001), 0x3c01u);
  EXPECT_EQ(h("mul.f16", 0x0001, 0x3800), 0x0000u);  // half the least denormal
  EXPECT_EQ(h("mul.f16", 0x7bff, 0x4000), 0x7c00u);
  EXPECT_EQ(h("sub.f16", 0x7c00, 0x7c00), 0x7fffu);
  EXPECT_EQ(h("add.bf16", 0x3f80, 0x3b80), 0x3f80u);  // 1 + 2^-8
  EXPECT_EQ(h("max.bf16", 0x3f80, 0x7fc0), 0x3f80u);
  EXPECT_EQ(run_one(body_of("add.f16x2", "r", {"r", "r"}), 0x3c004000, 0x40003c00), 0x42004200u);
  EXPECT_EQ(run_one(body_of("fma.rn.bf16x2", "r", {"r", "r", "r"}), 0x3f804000, 0x40003f80, 0x3f803f80), 0x40404040u);
  EXPECT_EQ(run_one(body_of("neg.bf16x2", "r", {"r"}), 0x3f804000), 0xbf80c000u);
}

TEST_F(FloatingTest, ApproximationsAreTheFunctionsRounded) {
  EXPECT_EQ(f("ex2.approx.ftz.f32", 3.0f), bits_of(8.0f));
  EXPECT_EQ(f("ex2.approx.ftz.f32", -kInf), 0u);
  EXPECT_EQ(f("ex2.approx.ftz.f32", -130.0f), 0u);
  EXPECT_EQ(f("ex2.approx.f32", -130.0f), bits_of(0x1p-130f));
  EXPECT_EQ(f("ex2.approx.ftz.f32", 200.0f), bits_of(kInf));
  EXPECT_EQ(f("ex2.approx.ftz.f32", NAN), kNan);
  EXPECT_EQ(f("ex2.approx.ftz.f32", 0.5f), bits_of(0x1.6a09e6p+0f));
  EXPECT_EQ(f("lg2.approx.f32", 8.0f), bits_of(3.0f));
  EXPECT_EQ(f("lg2.approx.f32", -1.0f), kNan);
  EXPECT_EQ(f("lg2.approx.ftz.f32", denormal()), bits_of(-kInf));
  EXPECT_EQ(f("rcp.approx.ftz.f32", 4.0f), bits_of(0.25f));
  EXPECT_EQ(f("rcp.approx.ftz.f32", denormal()), bits_of(kInf));
  EXPECT_EQ(f("rcp.approx.ftz.f32", -kInf), bits_of(-0.0f));
  EXPECT_EQ(f("rsqrt.approx.f32", 16.0f), bits_of(0.25f));
  EXPECT_EQ(f("sqrt.approx.f32", 16.0f), bits_of(4.0f));
  EXPECT_EQ(f("sin.approx.f32", 0.0f), 0u);
  EXPECT_EQ(f("cos.approx.f32", 0.0f), bits_of(1.0f));
  EXPECT_EQ(f("tanh.approx.f32", kInf), bits_of(1.0f));
  EXPECT_EQ(run_one(body_of("rcp.approx.ftz.f64", "fd", {"fd"}), bits_of(4.0)), bits_of(0.25));
  EXPECT_EQ(run_one(body_of("rcp.approx.ftz.f64", "fd", {"fd"}), bits_of(3.0)), 0x3fd5555500000000u);
}

}  // namespace
}  // namespace ptx
