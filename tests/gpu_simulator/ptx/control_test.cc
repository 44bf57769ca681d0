#include <gtest/gtest.h>

#include <string>

#include "ptx/testing/small_kernel.h"

namespace ptx {
namespace {

TEST(Barrier, OrdersStoresAndLoadsOfACta) {
  // A thread reads what the thread of the opposite number has stored, a hundred times over.
  const std::string body = R"(.shared .u32 words[96]; mov.u32 %r3, 0; shl.b32 %r4, %r0, 2; mov.u32 %r8, words;
    add.u32 %r4, %r4, %r8; sub.u32 %r5, 95, %r0; shl.b32 %r5, %r5, 2; add.u32 %r5, %r5, %r8; mov.u32 %r9, 0;
    loop: st.shared.u32 [%r4], %r3; bar.sync 0; ld.shared.u32 %r6, [%r5]; add.u32 %r9, %r9, %r6; barrier.cta.sync 1;
    add.u32 %r3, %r3, 1; setp.lt.u32 %p1, %r3, 100; @%p1 bra loop; st.global.u32 [%d0], %r9;)";
  for (std::uint64_t seed = 1; seed < 6; ++seed) {
    const auto out =
        run_small_kernel(small_kernel(body), {.num_threads = 96, .num_ctas = 3, .options = {.seed = seed}});
    for (const std::uint32_t word : out) EXPECT_EQ(word, 4950U);
  }
}

TEST(Barrier, ArrivingDoesNotWait) {
  // Warp 0 arrives and ends, warp 1 waits for both.
  const std::string body = R"(.shared .u32 word; setp.ge.u32 %p1, %r0, 32; mov.u32 %r3, 5; mov.u32 %r4, 64;
    @%p1 bra second; st.shared.u32 [word], %r3; barrier.cta.arrive.aligned %r3, %r4; ret;
    second: barrier.cta.sync.aligned %r3, %r4; ld.shared.u32 %r6, [word]; st.global.u32 [%d0], %r6;)";
  for (std::uint64_t seed = 1; seed < 9; ++seed) {
    EXPECT_EQ(run_small_kernel(small_kernel(body), {.num_threads = 64, .options = {.seed = seed}})[40], 5U);
  }
}

TEST(Barrier, OfTheWholeCtaDoesNotWaitForWarpsThatHaveEnded) {
  const std::string body = R"(setp.ge.u32 %p1, %r0, 32; @%p1 exit; bar.sync 0; st.global.u32 [%d0], %r2;)";
  EXPECT_EQ(run_small_kernel(small_kernel(body), {.num_threads = 100}).front(), 100U);
}

TEST(Barrier, ThatOthersDoNotReachIsADeadlock) {
  const std::string body = R"(setp.ge.u32 %p1, %r0, 32; @%p1 bra second; bar.sync 1, 64;
    second: bar.sync 2, 64;)";
  const std::string error = error_of_small_kernel(small_kernel(body), {.num_threads = 64});
  EXPECT_NE(error.find("deadlock"), std::string::npos) << error;
  EXPECT_NE(error.find("warp 0: lanes 0xffffffff at line 19 bar.sync"), std::string::npos) << error;
  EXPECT_NE(error.find("warp 1: lanes 0xffffffff at line 20 bar.sync"), std::string::npos) << error;
}

TEST(Barrier, MisuseIsAnError) {
  const auto error = [](const std::string& body) {
    return error_of_small_kernel(small_kernel(body), {.num_threads = 64});
  };
  EXPECT_NE(error("bar.sync 16;").find("barrier 16: there are 16"), std::string::npos);
  EXPECT_NE(error("bar.sync 1, 33;").find("whole warps"), std::string::npos);
  EXPECT_NE(error("bar.sync %r0;").find("lanes of the warp give"), std::string::npos);
  EXPECT_NE(error("setp.ge.u32 %p1, %r0, 32; selp.b32 %r3, 96, 128, %p1; bar.sync 1, %r3;").find("others have come"),
            std::string::npos);
  EXPECT_NE(error("bar.arrive 1, 96; bar.arrive 1, 96;").find("arrives twice"), std::string::npos);
  EXPECT_NE(error("setp.lt.u32 %p1, %r0, 3; @%p1 bar.sync 0; bar.sync 1;").find("deadlock"), std::string::npos);
  EXPECT_NE(error("bar.red.popc.u32 %r3, 0, %p1;").find("not implemented"), std::string::npos);
}

TEST(Trap, IsAnError) {
  EXPECT_NE(error_of_small_kernel(small_kernel("trap;")).find("the kernel gave up"), std::string::npos);
}

}  // namespace
}  // namespace ptx
