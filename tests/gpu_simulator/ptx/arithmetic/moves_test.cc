#include <cstdint>

#include "ptx/error.h"
#include "ptx/testing/lanes_test.h"

namespace ptx {
namespace {

class MovesTest : public LanesTest {};

TEST_F(MovesTest, ValuesAreMovedBetweenClassesOfAWidth) {
  EXPECT_EQ(run_one("mov.u64 %rd0, -13;"), static_cast<std::uint64_t>(-13));
  EXPECT_EQ(run_one("mov.u32 %r0, -13; cvt.u64.u32 %rd0, %r0;"), 0xfffffff3u);
  EXPECT_EQ(run_one("mov.u16 %rs0, -1; cvt.u64.u16 %rd0, %rs0;"), 0xffffu);
  EXPECT_EQ(run_one("mov.f32 %f0, 0fBF800000; mov.b32 %r0, %f0; cvt.u64.u32 %rd0, %r0;"), 0xbf800000u);
  EXPECT_EQ(run_one("mov.f64 %fd0, 0d3FF0000000000000; mov.b64 %rd0, %fd0;"), 0x3ff0000000000000u);
}

TEST_F(MovesTest, PredicatesAreTrueWhenNotZero) {
  EXPECT_EQ(run_one("mov.pred %p0, -1; selp.u64 %rd0, 1, 0, %p0;"), 1u);
  EXPECT_EQ(run_one("mov.pred %p0, 2; selp.u64 %rd0, 1, 0, %p0;"), 1u);
  EXPECT_EQ(run_one("mov.pred %p0, 0; selp.u64 %rd0, 1, 0, %p0;"), 0u);
  EXPECT_EQ(run("mov.pred %p0, %p1; selp.u64 %rd0, 1, 0, %p0;", {{0, 1}}), (Values{0, 1}));
}

TEST_F(MovesTest, VectorsArePackedFromTheLowestElement) {
  EXPECT_EQ(run_one("mov.b64 %rd0, {%r1, %r2};", 0x11111111, 0x22222222), 0x2222222211111111u);
  EXPECT_EQ(run_one("mov.b32 %r0, {%rs1, %rs2}; cvt.u64.u32 %rd0, %r0;", 0x1111, 0x2222), 0x22221111u);
  EXPECT_EQ(run_one("mov.b64 %rd0, {%rs1, %rs2, %rs3, %rs1};", 1, 2, 3), 0x0001000300020001u);
  EXPECT_EQ(run_one("mov.b32 %r0, {%rs1, -1}; cvt.u64.u32 %rd0, %r0;", 0x1111), 0xffff1111u);
  EXPECT_EQ(run_one("mov.b64 %rd1, {%r1, %r2}; mov.u64 %rd0, %rd1;", 0x11111111, 0x22222222), 0x2222222211111111u);
}

TEST_F(MovesTest, VectorsAreUnpackedAndSinksForget) {
  const std::string joined =
      "cvt.u64.u32 %rd0, %r4; cvt.u64.u32 %rd1, %r5; shl.b64 %rd1, %rd1, 32; or.b64 %rd0, %rd0, %rd1;";
  EXPECT_EQ(run_one("mov.b64 {%r5, %r4}, %rd1;" + joined, 0x1122334455667788), 0x5566778811223344u);
  EXPECT_EQ(run_one("mov.b64 {_, %r4}, %rd1; mov.u32 %r5, 0;" + joined, 0x1122334455667788), 0x11223344u);
  EXPECT_EQ(run_one("mov.b32 {%rs4, %rs5}, %r1; mov.b32 %r4, {%rs5, %rs4}; mov.u32 %r5, 0;" + joined, 0x11112222),
            0x22221111u);
  EXPECT_EQ(run_one("mov.b64 {%r4, %r5}, %fd1;" + joined, 0x1122334455667788), 0x1122334455667788u);
  EXPECT_EQ(run_one("mov.b64 {%r1, %r4}, %rd1; mov.b64 {%r4, %r5}, %rd1;" + joined, 0x11112222), 0x11112222u);
}

TEST_F(MovesTest, SpecialRegistersAreThoseOfTheLane) {
  const Values lanes = run("mov.u32 %r0, %laneid; cvt.u64.u32 %rd0, %r0;", {Values(33, 0)});
  EXPECT_EQ(lanes[31], 31u);
  EXPECT_EQ(lanes[32], 0u);
  EXPECT_EQ(run("mov.u32 %r0, %tid.x; cvt.u64.u32 %rd0, %r0;", {Values(33, 0)})[32], 32u);
  EXPECT_EQ(run("mov.u32 %r0, %ntid.x; cvt.u64.u32 %rd0, %r0;", {Values(33, 0)})[0], 33u);
}

TEST_F(MovesTest, AVectorMustFillTheWidth) {
  EXPECT_THROW(Module::parse(kernel_text("mov.b64 %rd0, {%r1, %r2, %r3};")), Error);
}

}  // namespace
}  // namespace ptx
