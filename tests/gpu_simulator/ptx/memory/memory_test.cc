#include <cstdint>

#include "ptx/error.h"
#include "ptx/testing/lanes_test.h"

namespace ptx {
namespace {

class MemoryTest : public LanesTest {
 protected:
  // Of a body that is an error.
  static std::string message_of(const std::string& body, std::uint64_t a = 0) {
    try {
      run_one(body, a);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  static std::string narrow() { return "cvt.u64.u32 %rd0, %r0;"; }
};

TEST_F(MemoryTest, LoadsAreExtendedToTheRegisterByTheirType) {
  const std::string stored = "st.shared.u64 [scratch], %rd1;";
  const std::uint64_t value = 0x8877665544332281;
  EXPECT_EQ(run_one(stored + "ld.shared.u8 %r0, [scratch];" + narrow(), value), 0x81u);
  EXPECT_EQ(run_one(stored + "ld.shared.s8 %r0, [scratch];" + narrow(), value), 0xffffff81u);
  EXPECT_EQ(run_one(stored + "ld.shared.s8 %rs0, [scratch]; cvt.u64.u16 %rd0, %rs0;", value), 0xff81u);
  EXPECT_EQ(run_one(stored + "ld.shared.s16 %rd0, [scratch+6];", value), 0xffffffffffff8877u);
  EXPECT_EQ(run_one(stored + "ld.shared.s32 %rd0, [scratch+4];", value), 0xffffffff88776655u);
  EXPECT_EQ(run_one(stored + "ld.shared.u32 %rd0, [scratch+4];", value), 0x88776655u);
  EXPECT_EQ(run_one(stored + "ld.shared.b64 %rd0, [scratch];", value), value);
  EXPECT_EQ(run_one(stored + "ld.shared.f32 %f0, [scratch]; mov.b32 %r0, %f0;" + narrow(), value), 0x44332281u);
}

TEST_F(MemoryTest, StoresTakeTheLowBits) {
  EXPECT_EQ(run_one("mov.u64 %rd4, 0; st.shared.u64 [scratch], %rd4; st.shared.u8 [scratch+1], %r1; st.shared.u16 "
                    "[scratch+4], %r1; ld.shared.u64 %rd0, [scratch];",
                    0x12345678),
            0x0000567800007800u);
  EXPECT_EQ(run_one("st.shared.u32 [scratch], -1; ld.shared.u32 %rd0, [scratch];"), 0xffffffffu);
}

TEST_F(MemoryTest, VectorsAreElementsOneBehindTheOther) {
  EXPECT_EQ(run_one("st.shared.v4.u32 [scratch], {%r1, %r2, %r3, %r1}; ld.shared.u64 %rd0, [scratch+8];", 1, 2, 3),
            0x100000003u);
  EXPECT_EQ(run_one("st.shared.v2.u64 [scratch], {%rd1, %rd2}; ld.shared.v2.u64 {%rd4, %rd0}, [scratch];", 1, 2), 2u);
  EXPECT_EQ(run_one("st.shared.v2.u64 [scratch], {%rd1, %rd2}; ld.shared.v4.u16 {_, _, %rs0, %rs4}, [scratch+8];"
                    "cvt.u64.u16 %rd0, %rs0;",
                    1, 0x123400000000),
            0x1234u);
}

TEST_F(MemoryTest, AddressesWrapAtTheWidthOfTheirRegister) {
  EXPECT_EQ(run_one("st.shared.u64 [scratch+8], %rd2; mov.u32 %r4, scratch; sub.s32 %r4, %r4, 8; ld.shared.u64 %rd0, "
                    "[%r4+16];",
                    0, 77),
            77u);
  EXPECT_EQ(run_one("mov.u64 %rd4, 5; st.global.u64 [%rd7+8], %rd4; ld.global.u64 %rd0, [%rd7+8];"), 5u);
  EXPECT_EQ(run_one("add.s64 %rd4, %rd7, 16; ld.global.u64 %rd0, [%rd4+-8];", 9), 9u);
}

TEST_F(MemoryTest, CacheAndOrderModifiersChangeNothing) {
  for (const char* const load :
       {"ld.global.nc.u64", "ld.global.cg.u64", "ld.volatile.global.u64", "ld.acquire.gpu.global.u64",
        "ld.relaxed.sys.global.u64", "ld.global.nc.L1::no_allocate.L2::128B.u64", "ld.global.lu.u64", "ld.u64",
        "ld.const.u64", "ld.weak.global.ca.u64"}) {
    EXPECT_EQ(run_one(std::string(load) + " %rd0, [%rd7+8];", 42), 42u) << load;
  }
  EXPECT_EQ(run_one("ld.global.L2::cache_hint.u64 %rd0, [%rd7+8], %rd1;", 42), 42u);
  EXPECT_EQ(run_one("st.release.gpu.global.u64 [%rd7+8], %rd2; ld.global.u64 %rd0, [%rd7+8];", 1, 2), 2u);
  EXPECT_EQ(run_one("st.global.cs.u64 [%rd7+8], %rd2; membar.gl; fence.acq_rel.gpu; fence.sc.cta; prefetch.global.L2 "
                    "[%rd7]; ld.global.u64 %rd0, [%rd7+8];",
                    1, 2),
            2u);
}

TEST_F(MemoryTest, GenericAddressesReachEverySpace) {
  EXPECT_EQ(run_one("mov.u64 %rd4, scratch; cvta.shared.u64 %rd4, %rd4; st.u64 [%rd4+8], %rd1; ld.shared.u64 %rd0, "
                    "[scratch+8];",
                    31),
            31u);
  EXPECT_EQ(run_one("st.shared.u64 [scratch+8], %rd1; mov.u64 %rd4, scratch; cvta.shared.u64 %rd4, %rd4; cvta.to.shared"
                    ".u64 %rd4, %rd4; ld.shared.u64 %rd0, [%rd4+8];",
                    32),
            32u);
  EXPECT_EQ(run_one("st.local.u64 [depot+8], %rd1; mov.u64 %rd4, depot; cvta.local.u64 %rd4, %rd4; ld.u64 %rd0, "
                    "[%rd4+8];",
                    33),
            33u);
  EXPECT_EQ(run_one("mov.b64 %rd4, lanes_param_0; cvta.param.u64 %rd4, %rd4; ld.u64 %rd4, [%rd4]; ld.global.u64 %rd0, "
                    "[%rd4+8];",
                    34),
            34u);
  EXPECT_EQ(run_one("cvta.to.global.u64 %rd4, %rd7; cvta.global.u64 %rd4, %rd4; ld.u64 %rd0, [%rd4+8];", 35), 35u);
  const std::string query =
      "isspacep.shared %p4, %rd4; isspacep.global %p5, %rd4; selp.u64 %rd0, 1, 0, %p4;"
      "@%p5 add.s64 %rd0, %rd0, 2;";
  EXPECT_EQ(run_one("mov.u64 %rd4, scratch; cvta.shared.u64 %rd4, %rd4;" + query), 1u);
  EXPECT_EQ(run_one("mov.u64 %rd4, %rd7;" + query), 2u);
}

TEST_F(MemoryTest, LocalMemoryIsEachLanesOwn) {
  EXPECT_EQ(run("st.local.u64 [depot], %rd1; ld.local.u64 %rd0, [depot];", {{1, 2, 3}}), (Values{1, 2, 3}));
}

TEST_F(MemoryTest, AccessesOutOfRangeOrMisalignedAreErrors) {
  EXPECT_NE(message_of("ld.global.u64 %rd0, [8];").find("near null"), std::string::npos);
  EXPECT_NE(message_of("ld.global.u64 %rd0, [%rd7+4];").find("not aligned"), std::string::npos);
  EXPECT_NE(message_of("ld.global.v2.u64 {%rd0, %rd1}, [%rd7+8];ld.global.v2.u64 {%rd0, %rd1}, [%rd7];").find("not al"),
            std::string::npos);
  EXPECT_NE(message_of("ld.local.u64 %rd0, [depot+64];"), "");
  EXPECT_NE(message_of("ld.param.u64 %rd0, [lanes_param_0+8];"), "");
  EXPECT_NE(message_of("mov.u32 %r0, 0x10000000; ld.shared.u64 %rd0, [%r0];"), "");
  EXPECT_NE(message_of("ld.shared.u64 %rd0, [scratch+4];"), "");
  EXPECT_EQ(message_of("ld.shared.u64 %rd0, [scratch+8];"), "");
}

TEST_F(MemoryTest, UnknownFormsAreRefusedWhenParsed) {
  EXPECT_THROW(Module::parse(kernel_text("ld.global.v2.u32 %r0, [%rd7];")), Error);
  EXPECT_THROW(Module::parse(kernel_text("ld.global.strange.u32 %r0, [%rd7];")), Error);
  EXPECT_THROW(Module::parse(kernel_text("st.param.u32 [lanes_param_0], %r1;")), Error);
}

}  // namespace
}  // namespace ptx
