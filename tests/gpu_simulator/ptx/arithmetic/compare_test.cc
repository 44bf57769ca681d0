#include <bit>
#include <cmath>
#include <cstdint>

#include "ptx/error.h"
#include "ptx/testing/lanes_test.h"

namespace ptx {
namespace {

std::uint64_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

class CompareTest : public LanesTest {
 protected:
  static bool holds(const std::string& comparison, const std::string& registers, std::uint64_t a, std::uint64_t b) {
    return run_one(body_of("setp." + comparison, "p", {registers, registers}), a, b) != 0;
  }
};

TEST_F(CompareTest, SignsOfIntegersComeFromTheTypeAndTheUnsignedNames) {
  const std::uint64_t minus_one = 0xffffffff;
  EXPECT_TRUE(holds("lt.s32", "r", minus_one, 1));
  EXPECT_FALSE(holds("lt.u32", "r", minus_one, 1));
  EXPECT_TRUE(holds("hi.u32", "r", minus_one, 1));
  EXPECT_TRUE(holds("lo.u32", "r", 1, minus_one));
  EXPECT_TRUE(holds("ls.u32", "r", 1, 1));
  EXPECT_TRUE(holds("hs.u32", "r", 1, 1));
  EXPECT_TRUE(holds("eq.b32", "r", 5, 5));
  EXPECT_TRUE(holds("ne.b64", "rd", 5, 5ull << 40));
  EXPECT_TRUE(holds("le.s64", "rd", ~0ull, 0));
  EXPECT_FALSE(holds("le.u64", "rd", ~0ull, 0));
  EXPECT_TRUE(holds("gt.s32", "r", 3, 2));
  EXPECT_TRUE(holds("ge.s32", "r", 2, 2));
  EXPECT_EQ(run_one("setp.eq.s16 %p0, %rs1, -1; selp.u64 %rd0, 1, 0, %p0;", 0xffff), 1u);
  EXPECT_EQ(run_one("setp.eq.s16 %p0, %rs1, 0; selp.u64 %rd0, 1, 0, %p0;", 0x10000), 1u);
}

TEST_F(CompareTest, NanMakesOnlyUnorderedComparisonsTrue) {
  for (const char* const name : {"eq", "ne", "lt", "le", "gt", "ge", "num"}) {
    EXPECT_FALSE(holds(std::string(name) + ".f32", "f", bits_of(NAN), bits_of(1.0f))) << name;
  }
  for (const char* const name : {"equ", "neu", "ltu", "leu", "gtu", "geu", "nan"}) {
    EXPECT_TRUE(holds(std::string(name) + ".f32", "f", bits_of(1.0f), bits_of(NAN))) << name;
  }
  EXPECT_TRUE(holds("num.f32", "f", bits_of(1.0f), bits_of(2.0f)));
  EXPECT_FALSE(holds("nan.f32", "f", bits_of(1.0f), bits_of(2.0f)));
}

TEST_F(CompareTest, OrderedAndUnorderedAgreeOnNumbers) {
  struct Case {
    std::string name;
    bool less, equal, greater;
  };
  const Case cases[] = {{"eq", false, true, false}, {"ne", true, false, true},  {"lt", true, false, false},
                        {"le", true, true, false},  {"gt", false, false, true}, {"ge", false, true, true}};
  for (const Case& c : cases) {
    for (const std::string suffix : {"", "u"}) {
      const std::string name = c.name + suffix + ".f32";
      EXPECT_EQ(holds(name, "f", bits_of(-1.0f), bits_of(1.0f)), c.less) << name;
      EXPECT_EQ(holds(name, "f", bits_of(0.0f), bits_of(-0.0f)), c.equal) << name;
      EXPECT_EQ(holds(name, "f", bits_of(2.0f), bits_of(1.0f)), c.greater) << name;
    }
  }
  EXPECT_TRUE(holds("gt.f32", "f", 1, 0));
  EXPECT_FALSE(holds("gt.ftz.f32", "f", 1, 0));
  EXPECT_TRUE(holds("lt.f64", "fd", std::bit_cast<std::uint64_t>(-1.0), 0));
  EXPECT_TRUE(holds("gt.f16", "rs", 0x3c01, 0x3c00));
  EXPECT_TRUE(holds("ltu.bf16", "rs", 0x7fc0, 0x3c00));
}

TEST_F(CompareTest, TheSecondPredicateIsTheContraryAndBothAreCombined) {
  const std::vector<Values> columns{{1, 1, 3, 3}, {2, 2, 2, 2}, {0, 1, 0, 1}};
  const std::string both = "selp.u64 %rd0, 1, 0, %p4; selp.u64 %rd1, 2, 0, %p5; add.s64 %rd0, %rd0, %rd1;";
  EXPECT_EQ(run("setp.lt.s32 %p4|%p5, %r1, %r2;" + both, columns), (Values{1, 1, 2, 2}));
  EXPECT_EQ(run("setp.lt.and.s32 %p4|%p5, %r1, %r2, %p3;" + both, columns), (Values{0, 1, 0, 2}));
  EXPECT_EQ(run("setp.lt.or.s32 %p4|%p5, %r1, %r2, %p3;" + both, columns), (Values{1, 3, 2, 3}));
  EXPECT_EQ(run("setp.lt.xor.s32 %p4|%p5, %r1, %r2, !%p3;" + both, columns), (Values{2, 1, 1, 2}));
  EXPECT_EQ(run("setp.lt.and.s32 %p4, %r1, %r2, !%p3; selp.u64 %rd0, 1, 0, %p4;", columns), (Values{1, 0, 0, 0}));
}

TEST_F(CompareTest, SelectionsTakeTheirWidth) {
  EXPECT_EQ(run("selp.b64 %rd0, %rd1, %rd2, %p3;", {{10, 11}, {20, 21}, {1, 0}}), (Values{10, 21}));
  EXPECT_EQ(run_one("selp.b32 %r0, -1, 0, %p1; cvt.u64.u32 %rd0, %r0;", 1), 0xffffffffu);
  EXPECT_EQ(run_one("selp.f32 %f0, 0f3F800000, %f2, %p1; mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;", 1), bits_of(1.0f));
  EXPECT_EQ(run_one("slct.u32.s32 %r0, %r1, %r2, %r3; cvt.u64.u32 %rd0, %r0;", 5, 6, 0xffffffff), 6u);
  EXPECT_EQ(run_one("slct.b32.f32 %r0, %r1, %r2, %f3; cvt.u64.u32 %rd0, %r0;", 5, 6, bits_of(-0.0f)), 5u);
}

TEST_F(CompareTest, SetGivesAllOnesOrOne) {
  EXPECT_EQ(run_one(body_of("set.lt.u32.s32", "r", {"r", "r"}), 1, 2), 0xffffffffu);
  EXPECT_EQ(run_one(body_of("set.gt.f32.s32", "f", {"r", "r"}), 2, 1), bits_of(1.0f));
  EXPECT_EQ(run_one(body_of("set.gt.f32.f32", "f", {"f", "f"}), bits_of(1.0f), bits_of(2.0f)), 0u);
}

TEST_F(CompareTest, IntegersHaveNoUnorderedComparisons) {
  EXPECT_THROW(Module::parse(kernel_text("setp.ltu.s32 %p0, %r1, %r2;")), Error);
  EXPECT_THROW(Module::parse(kernel_text("setp.lt.and.s32 %p0, %r1, %r2;")), Error);
}

}  // namespace
}  // namespace ptx
