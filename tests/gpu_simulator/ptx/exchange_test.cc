#include "ptx/exchange.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "ptx/testing/small_kernel.h"

namespace ptx {
namespace {

// Every lane gives 100 + its number; the low byte of the result is what it got, bit 8 the predicate.
std::vector<std::uint32_t> shuffled(const std::string& mode, const std::string& distance, const std::string& bounds) {
  return run_small_kernel(small_kernel("add.u32 %r3, %r0, 100;\nshfl.sync." + mode + ".b32 %r4|%p1, %r3, " + distance +
                                       ", " + bounds + ", -1;\nselp.u32 %r5, 256, 0, %p1;\nor.b32 %r4, %r4, %r5;\n" +
                                       "st.global.u32 [%d0], %r4;"));
}

constexpr std::uint32_t kInRange = 256;

TEST(Shuffle, ButterflyExchangesPairs) {
  const auto out = shuffled("bfly", "16", "31");
  for (std::uint32_t lane = 0; lane < 32; ++lane) EXPECT_EQ(out[lane], kInRange | (100 + (lane ^ 16)));
}

TEST(Shuffle, UpKeepsTheLanesBelowTheDistance) {
  const auto out = shuffled("up", "3", "0");
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(out[lane], lane < 3 ? 100 + lane : (kInRange | (100 + lane - 3)));
  }
}

TEST(Shuffle, DownStopsAtTheEndOfASegmentOfEight) {
  const auto out = shuffled("down", "2", "0x181f");  // segments of 8: mask 0b11000, clamp 31
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(out[lane], lane % 8 >= 6 ? 100 + lane : (kInRange | (100 + lane + 2)));
  }
}

TEST(Shuffle, IndexCountsWithinTheSegment) {
  const auto out = shuffled("idx", "5", "0x181f");
  for (std::uint32_t lane = 0; lane < 32; ++lane) EXPECT_EQ(out[lane], kInRange | (100 + lane / 8 * 8 + 5));
}

TEST(Shuffle, MayWriteTheRegisterThatItReads) {
  const auto out = run_small_kernel(small_kernel("shfl.sync.bfly.b32 %r0, %r0, 1, 31, -1;\nst.global.u32 [%d0], %r0;"));
  for (std::uint32_t lane = 0; lane < 32; ++lane) EXPECT_EQ(out[lane], lane ^ 1U);
}

TEST(Shuffle, FromALaneThatDoesNotTakePartIsAnError) {
  const std::string half = R"(setp.ge.u32 %p1, %r0, 16; @%p1 bra done;
    shfl.sync.bfly.b32 %r3, %r0, 16, 31, 0xffff; done:)";
  EXPECT_NE(error_of_small_kernel(small_kernel(half)).find("reads from lane 16"), std::string::npos);
  EXPECT_NE(error_of_small_kernel(small_kernel("shfl.sync.idx.b32 %r3, %r0, 20, 31, -1;"), {.num_threads = 16})
                .find("reads from lane 20"),
            std::string::npos);
}

TEST(Shuffle, WithAMaskThatLacksTheLaneIsAnError) {
  EXPECT_NE(error_of_small_kernel(small_kernel("shfl.sync.idx.b32 %r3, %r0, 0, 31, 0xfffffffe;"))
                .find("not in the member mask"),
            std::string::npos);
}

TEST(Shuffle, HalvesWithMasksOfTheirOwnDoNotWaitForEachOther) {
  const std::string body = R"(setp.lt.u32 %p1, %r0, 16; selp.b32 %r4, 0xffff, 0xffff0000, %p1;
    shfl.sync.bfly.b32 %r3, %r0, 1, 31, %r4; st.global.u32 [%d0], %r3;)";
  const auto out = run_small_kernel(small_kernel(body));
  for (std::uint32_t lane = 0; lane < 32; ++lane) EXPECT_EQ(out[lane], lane ^ 1U);
}

TEST(Vote, CountsTheLanesOfTheMask) {
  const std::string body = R"(setp.lt.u32 %p1, %r0, 5; vote.sync.ballot.b32 %r3, %p1, -1;
    vote.sync.ballot.b32 %r4, !%p1, -1; xor.b32 %r4, %r4, %r3;
    vote.sync.any.pred %p2, %p1, -1; vote.sync.all.pred %p3, %p1, -1; vote.sync.uni.pred %p4, %p3, -1;
    selp.u32 %r5, 256, 0, %p2; selp.u32 %r6, 512, 0, %p3; selp.u32 %r7, 1024, 0, %p4;
    or.b32 %r3, %r3, %r5; or.b32 %r3, %r3, %r6; or.b32 %r3, %r3, %r7; and.b32 %r3, %r3, %r4;
    st.global.u32 [%d0], %r3;)";
  for (const std::uint32_t word : run_small_kernel(small_kernel(body))) EXPECT_EQ(word, 31U | 256U | 1024U);
}

TEST(Vote, DoesNotWaitForLanesThatHaveEnded) {
  const std::string body = R"(setp.ge.u32 %p1, %r0, 8; @%p1 exit;
    setp.eq.u32 %p2, %r0, %r0; vote.sync.ballot.b32 %r3, %p2, -1; st.global.u32 [%d0], %r3;)";
  EXPECT_EQ(run_small_kernel(small_kernel(body)).front(), 0xffU);
}

TEST(SyncWarp, WaitsForTheLanesOfALongerPath) {
  // Lane 0 stores late and from behind in the text; the others read after the barrier.
  const std::string body = R"(.shared .u32 word; setp.eq.u32 %p1, %r0, 0; @%p1 bra late;
    join: bar.warp.sync -1; ld.shared.u32 %r3, [word]; st.global.u32 [%d0], %r3; bra done;
    late: mov.u32 %r4, 0;
    loop: add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 100; @%p2 bra loop;
    st.shared.u32 [word], %r4; bra join; done:)";
  for (const std::uint32_t word : run_small_kernel(small_kernel(body))) EXPECT_EQ(word, 100U);
}

TEST(SyncWarp, OnlyAFewLanesOfTheMaskIsADeadlock) {
  const std::string body = R"(setp.eq.u32 %p1, %r0, 0; @%p1 bar.warp.sync -1;
    setp.eq.u32 %p1, %r0, 1; @%p1 bar.sync 0;)";
  const std::string error = error_of_small_kernel(small_kernel(body));
  EXPECT_NE(error.find("deadlock"), std::string::npos);
  EXPECT_NE(error.find("lanes 0x1 at line"), std::string::npos) << error;
}

TEST(ActiveMask, IsOfTheLanesThatGoTogether) {
  const std::string body = R"(setp.lt.u32 %p1, %r0, 4; @%p1 activemask.b32 %r3; @!%p1 mov.u32 %r3, 0;
    st.global.u32 [%d0], %r3;)";
  const auto out = run_small_kernel(small_kernel(body));
  EXPECT_EQ(out[3], 15U);
  EXPECT_EQ(out[4], 0U);
}

}  // namespace
}  // namespace ptx
