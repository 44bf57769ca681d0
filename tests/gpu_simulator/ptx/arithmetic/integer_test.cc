#include <cstdint>
#include <limits>

#include "ptx/error.h"
#include "ptx/testing/lanes_test.h"

namespace ptx {
namespace {

class IntegerTest : public LanesTest {
 protected:
  static std::uint64_t r(const std::string& op, std::uint32_t a, std::uint32_t b = 0, std::uint32_t c = 0) {
    const bool unary = op.starts_with("neg") || op.starts_with("abs");
    const bool ternary = op.starts_with("mad") || op.starts_with("sad");
    if (unary) return run_one(body_of(op, "r", {"r"}), a);
    if (ternary) return run_one(body_of(op, "r", {"r", "r", "r"}), a, b, c);
    return run_one(body_of(op, "r", {"r", "r"}), a, b);
  }
  static std::uint64_t rd(const std::string& op, std::uint64_t a, std::uint64_t b) {
    return run_one(body_of(op, "rd", {"rd", "rd"}), a, b);
  }
};

constexpr std::uint32_t kMinusOne = ~0u, kLeast = 0x80000000u, kGreatest = 0x7fffffffu;

TEST_F(IntegerTest, SumsWrapAndLeaveZerosAboveTheirWidth) {
  EXPECT_EQ(r("add.s32", kGreatest, 1), kLeast);
  EXPECT_EQ(r("add.u32", kMinusOne, 2), 1u);
  EXPECT_EQ(r("sub.s32", 3, 5), 0xfffffffeu);
  EXPECT_EQ(rd("add.s64", ~0ull, 1), 0u);
  EXPECT_EQ(rd("sub.u64", 0, 1), ~0ull);
  EXPECT_EQ(run_one(body_of("add.s16", "rs", {"rs", "rs"}), 0xffff, 3), 2u);
  EXPECT_EQ(run_one(body_of("mul.lo.u16", "rs", {"rs", "rs"}), 0xffff, 0xffff), 1u);
}

TEST_F(IntegerTest, SaturatedSumsStopAtTheEnds) {
  EXPECT_EQ(r("add.sat.s32", kGreatest, 1), kGreatest);
  EXPECT_EQ(r("add.sat.s32", kLeast, kMinusOne), kLeast);
  EXPECT_EQ(r("sub.sat.s32", kLeast, 1), kLeast);
  EXPECT_EQ(r("sub.sat.s32", 7, 9), 0xfffffffeu);
}

TEST_F(IntegerTest, ImmediatesAreTruncatedToTheWidth) {
  EXPECT_EQ(run_one("add.s32 %r0, %r1, -3; cvt.u64.u32 %rd0, %r0;", 1), 0xfffffffeu);
  EXPECT_EQ(run_one("add.s64 %rd0, %rd1, -3;", 1), 0xfffffffffffffffeull);
  EXPECT_EQ(run_one("mul.wide.s32 %rd0, %r1, -4;", 5), static_cast<std::uint64_t>(-20));
  EXPECT_EQ(run_one("mul.wide.u32 %rd0, %r1, 0xffffffff;", 2), 0x1fffffffeull);
}

TEST_F(IntegerTest, ProductsGiveTheHalfAskedFor) {
  EXPECT_EQ(r("mul.lo.s32", 0x10001, 0x10001), 0x20001u);
  EXPECT_EQ(r("mul.hi.s32", kMinusOne, 5), kMinusOne);
  EXPECT_EQ(r("mul.hi.u32", kMinusOne, 5), 4u);
  EXPECT_EQ(r("mul.hi.s32", kLeast, kLeast), 0x40000000u);
  EXPECT_EQ(rd("mul.hi.u64", ~0ull, ~0ull), ~0ull - 1);
  EXPECT_EQ(rd("mul.hi.s64", ~0ull, ~0ull), 0u);
  EXPECT_EQ(rd("mul.lo.s64", ~0ull, 7), static_cast<std::uint64_t>(-7));
  EXPECT_EQ(run_one(body_of("mul.wide.s32", "rd", {"r", "r"}), kMinusOne, 3), static_cast<std::uint64_t>(-3));
  EXPECT_EQ(run_one(body_of("mul.wide.u16", "r", {"rs", "rs"}), 0xffff, 0xffff), 0xfffe0001u);
  EXPECT_EQ(run_one(body_of("mul.wide.s16", "r", {"rs", "rs"}), 0xffff, 2), 0xfffffffeu);
}

TEST_F(IntegerTest, MadAddsToTheHalfAskedFor) {
  EXPECT_EQ(r("mad.lo.s32", 3, kMinusOne, 10), 7u);
  EXPECT_EQ(r("mad.hi.u32", kLeast, 4, 1), 3u);
  EXPECT_EQ(run_one(body_of("mad.wide.u32", "rd", {"r", "r", "rd"}), kMinusOne, kMinusOne, 1), 0xfffffffe00000002ull);
  EXPECT_EQ(run_one(body_of("mad.wide.s32", "rd", {"r", "r", "rd"}), kMinusOne, 2, 1), ~0ull);
  EXPECT_EQ(r("sad.s32", kMinusOne, 2, 100), 103u);
  EXPECT_EQ(r("sad.u32", kMinusOne, 2, 100), 97u);
}

TEST_F(IntegerTest, QuotientsRoundTowardsZeroAndRemaindersHaveTheDividendsSign) {
  EXPECT_EQ(r("div.s32", static_cast<std::uint32_t>(-7), 2), static_cast<std::uint32_t>(-3));
  EXPECT_EQ(r("rem.s32", static_cast<std::uint32_t>(-7), 2), kMinusOne);
  EXPECT_EQ(r("div.u32", static_cast<std::uint32_t>(-7), 2), 0x7ffffffcu);
  EXPECT_EQ(r("div.s32", kLeast, kMinusOne), kLeast);
  EXPECT_EQ(r("rem.s32", kLeast, kMinusOne), 0u);
  EXPECT_EQ(rd("div.s64", static_cast<std::uint64_t>(-9), 4), static_cast<std::uint64_t>(-2));
  EXPECT_EQ(rd("rem.u64", 100, 7), 2u);
}

TEST_F(IntegerTest, ADivisionByZeroIsAnError) {
  EXPECT_THROW(r("div.s32", 1, 0), Error);
  EXPECT_THROW(r("rem.u32", 1, 0), Error);
}

TEST_F(IntegerTest, SignsDecideAbsMinAndMax) {
  EXPECT_EQ(r("abs.s32", static_cast<std::uint32_t>(-5)), 5u);
  EXPECT_EQ(r("abs.s32", kLeast), kLeast);
  EXPECT_EQ(r("neg.s32", 5), static_cast<std::uint32_t>(-5));
  EXPECT_EQ(r("min.s32", kMinusOne, 1), kMinusOne);
  EXPECT_EQ(r("min.u32", kMinusOne, 1), 1u);
  EXPECT_EQ(r("max.s32", kMinusOne, 1), 1u);
  EXPECT_EQ(r("max.u32", kMinusOne, 1), kMinusOne);
  EXPECT_EQ(rd("min.s64", ~0ull, 1), ~0ull);
  EXPECT_EQ(rd("max.u64", ~0ull, 1), ~0ull);
  EXPECT_EQ(run_one(body_of("min.s16", "rs", {"rs", "rs"}), 0x8000, 1), 0x8000u);
}

TEST_F(IntegerTest, OnlyLanesOfTheGuardAreWritten) {
  const Values results = run("mov.u32 %r0, 5; @%p1 add.s32 %r0, %r0, 1; cvt.u64.u32 %rd0, %r0;", {{0, 1, 1, 0, 1}});
  EXPECT_EQ(results, (Values{5, 6, 6, 5, 6}));
}

TEST_F(IntegerTest, UnknownFormsAreRefusedWhenParsed) {
  EXPECT_THROW(Module::parse(kernel_text("add.sat.u32 %r0, %r1, %r2;")), Error);
  EXPECT_THROW(Module::parse(kernel_text("add.s32 %r0, %r1;")), Error);
  EXPECT_THROW(Module::parse(kernel_text("mul.wide.s64 %rd0, %rd1, %rd2;")), Error);
  EXPECT_THROW(Module::parse(kernel_text("dp4a.s32.s32 %r0, %r1, %r2, %r3;")), Error);
}

}  // namespace
}  // namespace ptx
