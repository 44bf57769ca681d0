#include <cstdint>

#include "ptx/testing/lanes_test.h"

namespace ptx {
namespace {

class BitsTest : public LanesTest {
 protected:
  static std::uint64_t r(const std::string& instruction, std::uint32_t a, std::uint32_t b = 0, std::uint32_t c = 0) {
    return run_one(instruction + "; cvt.u64.u32 %rd0, %r0;", a, b, c);
  }
};

TEST_F(BitsTest, LogicIsOfAllWidthsAndOfPredicates) {
  EXPECT_EQ(r("and.b32 %r0, %r1, %r2", 0xff00ff00, 0x0ff00ff0), 0x0f000f00u);
  EXPECT_EQ(r("or.b32 %r0, %r1, 3", 0xf0), 0xf3u);
  EXPECT_EQ(r("xor.b32 %r0, %r1, -1", 0xf0), 0xffffff0fu);
  EXPECT_EQ(r("not.b32 %r0, %r1", 0xf0), 0xffffff0fu);
  EXPECT_EQ(r("cnot.b32 %r0, %r1", 0), 1u);
  EXPECT_EQ(r("cnot.b32 %r0, %r1", 7), 0u);
  EXPECT_EQ(run_one("not.b64 %rd0, %rd1;", 1), ~1ull);
  EXPECT_EQ(run_one(body_of("and.b16", "rs", {"rs", "rs"}), 0xabcd, 0x0ff0), 0x0bc0u);
  EXPECT_EQ(run_one(body_of("not.b16", "rs", {"rs"}), 0xabcd), 0x5432u);
  EXPECT_EQ(run(body_of("xor.pred", "p", {"p", "p"}), {{0, 1, 0, 1}, {0, 0, 1, 1}}), (Values{0, 1, 1, 0}));
  EXPECT_EQ(run(body_of("and.pred", "p", {"p", "p"}), {{0, 1, 0, 1}, {0, 0, 1, 1}}), (Values{0, 0, 0, 1}));
  EXPECT_EQ(run(body_of("not.pred", "p", {"p"}), {{0, 1}}), (Values{1, 0}));
}

TEST_F(BitsTest, ShiftCountsAreClampedNotWrapped) {
  EXPECT_EQ(r("shl.b32 %r0, %r1, %r2", 1, 31), 0x80000000u);
  EXPECT_EQ(r("shl.b32 %r0, %r1, %r2", 1, 32), 0u);
  EXPECT_EQ(r("shl.b32 %r0, %r1, %r2", 1, ~0u), 0u);
  EXPECT_EQ(r("shr.u32 %r0, %r1, %r2", ~0u, 33), 0u);
  EXPECT_EQ(r("shr.s32 %r0, %r1, %r2", 0x80000000, 4), 0xf8000000u);
  EXPECT_EQ(r("shr.s32 %r0, %r1, %r2", 0x80000000, 200), ~0u);
  EXPECT_EQ(run_one("shl.b64 %rd0, %rd1, %r2;", 1, 63), 1ull << 63);
  EXPECT_EQ(run_one("shl.b64 %rd0, %rd1, 64;", 1), 0u);
  EXPECT_EQ(run_one("shr.s64 %rd0, %rd1, 63;", 1ull << 63), ~0ull);
  EXPECT_EQ(run_one("shr.u64 %rd0, %rd1, 63;", 1ull << 63), 1u);
  EXPECT_EQ(run_one("shl.b16 %rs0, %rs1, 15; cvt.u64.u16 %rd0, %rs0;", 3), 0x8000u);
}

TEST_F(BitsTest, FunnelShiftsTakeBitsOfBothWords) {
  EXPECT_EQ(r("shf.l.wrap.b32 %r0, %r1, %r2, %r3", 0x89abcdef, 0x01234567, 8), 0x23456789u);
  EXPECT_EQ(r("shf.r.wrap.b32 %r0, %r1, %r2, %r3", 0x89abcdef, 0x01234567, 8), 0x6789abcdu);
  EXPECT_EQ(r("shf.l.wrap.b32 %r0, %r1, %r2, %r3", 0x89abcdef, 0x01234567, 32), 0x01234567u);
  EXPECT_EQ(r("shf.l.clamp.b32 %r0, %r1, %r2, %r3", 0x89abcdef, 0x01234567, 99), 0x89abcdefu);
  EXPECT_EQ(r("shf.r.clamp.b32 %r0, %r1, %r2, %r3", 0x89abcdef, 0x01234567, 99), 0x01234567u);
}

TEST_F(BitsTest, BitsAreCountedFoundAndReversed) {
  EXPECT_EQ(r("popc.b32 %r0, %r1", 0xf0f), 8u);
  EXPECT_EQ(r("popc.b64 %r0, %rd1", ~0u), 32u);
  EXPECT_EQ(r("clz.b32 %r0, %r1", 0), 32u);
  EXPECT_EQ(r("clz.b64 %r0, %rd1", 1), 63u);
  EXPECT_EQ(r("brev.b32 %r0, %r1", 0x00000005), 0xa0000000u);
  EXPECT_EQ(run_one("brev.b64 %rd0, %rd1;", 1), 1ull << 63);
  EXPECT_EQ(r("bfind.u32 %r0, %r1", 0x00010000), 16u);
  EXPECT_EQ(r("bfind.u32 %r0, %r1", 0), ~0u);
  EXPECT_EQ(r("bfind.shiftamt.u32 %r0, %r1", 0x00010000), 15u);
  EXPECT_EQ(r("bfind.shiftamt.u32 %r0, %r1", 0), ~0u);
  EXPECT_EQ(r("bfind.s32 %r0, %r1", 0xfffffff0), 3u);
  EXPECT_EQ(r("bfind.s32 %r0, %r1", ~0u), ~0u);
}

TEST_F(BitsTest, FieldsAreExtractedWithTheirSignAndStopAtTheTop) {
  EXPECT_EQ(r("bfe.u32 %r0, %r1, 8, 8", 0x12f45678), 0x56u);
  EXPECT_EQ(r("bfe.u32 %r0, %r1, 24, 16", 0x92f45678), 0x92u);
  EXPECT_EQ(r("bfe.s32 %r0, %r1, 16, 8", 0x12f45678), 0xfffffff4u);
  EXPECT_EQ(r("bfe.s32 %r0, %r1, 24, 16", 0x92f45678), 0xffffff92u);
  EXPECT_EQ(r("bfe.s32 %r0, %r1, 4, 0", ~0u), 0u);
  EXPECT_EQ(run_one("bfe.u64 %rd0, %rd1, 60, 4;", 0xa000000000000000), 0xau);
  EXPECT_EQ(r("bfi.b32 %r0, %r1, %r2, 8, 8", 0xab, 0x11223344), 0x1122ab44u);
  EXPECT_EQ(r("bfi.b32 %r0, %r1, %r2, 28, 8", 0xab, 0x11223344), 0xb1223344u);
  EXPECT_EQ(r("bfi.b32 %r0, %r1, %r2, 8, 0", 0xab, 0x11223344), 0x11223344u);
}

TEST_F(BitsTest, PermutePicksBytesOrTheirSigns) {
  EXPECT_EQ(r("prmt.b32 %r0, %r1, %r2, 0x7531", 0x33221100, 0x77665544), 0x77553311u);
  EXPECT_EQ(r("prmt.b32 %r0, %r1, %r2, 0x0123", 0x33221100, 0), 0x00112233u);
  EXPECT_EQ(r("prmt.b32 %r0, %r1, %r2, 0x98ba", 0x80ff007f, 0), 0x0000ffffu);
}

TEST_F(BitsTest, LookUpTablesAreAnyLogicOfThreeWords) {
  const std::uint32_t a = 0xf0f0aaaa, b = 0xcccc1234, c = 0x12345678;
  EXPECT_EQ(r("lop3.b32 %r0, %r1, %r2, %r3, 0x80", a, b, c), a & b & c);
  EXPECT_EQ(r("lop3.b32 %r0, %r1, %r2, %r3, 0xfe", a, b, c), a | b | c);
  EXPECT_EQ(r("lop3.b32 %r0, %r1, %r2, %r3, 0x96", a, b, c), a ^ b ^ c);
  EXPECT_EQ(r("lop3.b32 %r0, %r1, %r2, %r3, 0xea", a, b, c), (a & b) | c);
  EXPECT_EQ(r("lop3.b32 %r0, %r1, %r2, %r3, 0x20", a, b, c), a & ~b & c);
}

}  // namespace
}  // namespace ptx
