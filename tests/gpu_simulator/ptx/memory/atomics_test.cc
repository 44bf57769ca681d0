#include <bit>
#include <cstdint>

#include "ptx/error.h"
#include "ptx/testing/lanes_test.h"

namespace ptx {
namespace {

std::uint64_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

class AtomicsTest : public LanesTest {
 protected:
  // What a 64-bit cell of shared memory that held %rd1 becomes, in the upper bits what the instruction returns of it.
  static std::uint64_t after(const std::string& op, const std::string& registers, std::uint64_t old,
                             std::uint64_t value, std::uint64_t second = 0) {
    std::string text =
        "st.shared.u64 [scratch], %rd1;\natom.shared." + op + " %" + registers + "0, [scratch], %" + registers + "2";
    if (op.starts_with("cas")) text += ", %" + registers + "3";
    return run_one(text + ";\nld.shared.u64 %rd0, [scratch];", old, value, second);
  }
};

TEST_F(AtomicsTest, LanesUpdateOneAfterTheOther) {
  const std::string body =
      "st.shared.u32 [scratch], 100; atom.shared.add.u32 %r0, [scratch], %r1; cvt.u64.u32 %rd0, %r0;";
  EXPECT_EQ(run(body, {{1, 2, 3, 4}}), (Values{100, 101, 103, 106}));
}

TEST_F(AtomicsTest, OperationsAreThoseOfTheName) {
  EXPECT_EQ(after("add.u32", "r", 0xffffffff, 2), 1u);
  EXPECT_EQ(after("add.u64", "rd", 0xffffffff, 2), 0x100000001u);
  EXPECT_EQ(after("min.s32", "r", 5, 0xffffffff), 0xffffffffu);
  EXPECT_EQ(after("min.u32", "r", 5, 0xffffffff), 5u);
  EXPECT_EQ(after("max.s32", "r", 5, 0xffffffff), 5u);
  EXPECT_EQ(after("max.u64", "rd", 5, ~0ull), ~0ull);
  EXPECT_EQ(after("and.b32", "r", 12, 10), 8u);
  EXPECT_EQ(after("or.b32", "r", 12, 10), 14u);
  EXPECT_EQ(after("xor.b64", "rd", 12, 10), 6u);
  EXPECT_EQ(after("exch.b32", "r", 12, 10), 10u);
  EXPECT_EQ(after("cas.b32", "r", 12, 12, 7), 7u);
  EXPECT_EQ(after("cas.b64", "rd", 12, 11, 7), 12u);
  EXPECT_EQ(after("inc.u32", "r", 3, 3), 0u);
  EXPECT_EQ(after("inc.u32", "r", 2, 3), 3u);
  EXPECT_EQ(after("dec.u32", "r", 0, 3), 3u);
  EXPECT_EQ(after("dec.u32", "r", 2, 3), 1u);
  EXPECT_EQ(after("dec.u32", "r", 9, 3), 3u);
}

TEST_F(AtomicsTest, FloatsAreAddedAndInGlobalMemoryDenormalsAreZeros) {
  EXPECT_EQ(after("add.f32", "f", bits_of(1.5f), bits_of(2.0f)), bits_of(3.5f));
  EXPECT_EQ(after("add.f64", "fd", std::bit_cast<std::uint64_t>(1.5), std::bit_cast<std::uint64_t>(2.0)),
            std::bit_cast<std::uint64_t>(3.5));
  EXPECT_EQ(after("add.noftz.f16x2", "r", 0x3c004000, 0x3c003c00), 0x40004200u);
  EXPECT_EQ(after("add.f32", "f", 1, 1), 2u);
  EXPECT_EQ(run_one("red.global.add.f32 [%rd7+8], %f2; ld.global.u64 %rd0, [%rd7+8];", 1, 1), 0u);
  EXPECT_EQ(run_one("red.add.f32 [%rd7+8], %f2; ld.global.u64 %rd0, [%rd7+8];", bits_of(1.0f), bits_of(2.0f)),
            bits_of(3.0f));
}

TEST_F(AtomicsTest, EverySpaceReturnsTheOldValue) {
  EXPECT_EQ(run_one("atom.global.exch.b64 %rd0, [%rd7+8], %rd2;", 5, 6), 5u);
  EXPECT_EQ(run_one("atom.acq_rel.gpu.global.add.u64 %rd0, [%rd7+8], %rd2;", 5, 6), 5u);
  EXPECT_EQ(run_one("atom.relaxed.sys.cas.b64 %rd0, [%rd7+8], 5, 9; ld.global.u64 %rd0, [%rd7+8];", 5), 9u);
  EXPECT_EQ(run_one("atom.global.or.b32 %r0, [%rd7+8], 6; cvt.u64.u32 %rd0, %r0;", 1), 1u);
  EXPECT_EQ(run_one("atom.global.add.u64 _, [%rd7+8], 6; ld.global.u64 %rd0, [%rd7+8];", 1), 7u);
  EXPECT_EQ(run_one("mov.u64 %rd4, scratch; cvta.shared.u64 %rd4, %rd4; st.u32 [%rd4], 5; atom.add.u32 %r0, [%rd4], 1; "
                    "ld.shared.u32 %rd0, [scratch];"),
            6u);
}

TEST_F(AtomicsTest, UnknownFormsAreRefusedWhenParsed) {
  EXPECT_THROW(Module::parse(kernel_text("atom.global.and.f32 %f0, [%rd7], %f1;")), Error);
  EXPECT_THROW(Module::parse(kernel_text("atom.local.add.u32 %r0, [depot], 1;")), Error);
  EXPECT_THROW(Module::parse(kernel_text("red.global.cas.b32 [%rd7], 1;")), Error);
}

}  // namespace
}  // namespace ptx
