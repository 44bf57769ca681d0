#include "ptx/warp.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <string>

#include "ptx/testing/small_kernel.h"

namespace ptx {
namespace {

TEST(Warp, LanesTakeTheirOwnPathsAndMeetAgain) {
  // Collatz steps of the lane's number: every lane leaves the loop after another number of turns.
  const std::string body = R"(add.u32 %r3, %r0, 1; mov.u32 %r4, 0;
    loop: setp.eq.u32 %p1, %r3, 1; @%p1 bra done;
    and.b32 %r5, %r3, 1; setp.eq.u32 %p2, %r5, 1; @%p2 bra odd;
    shr.u32 %r3, %r3, 1; bra.uni next;
    odd: mad.lo.u32 %r3, %r3, 3, 1;
    next: add.u32 %r4, %r4, 1; bra loop;
    done: activemask.b32 %r6; shl.b32 %r4, %r4, 1; setp.eq.u32 %p3, %r6, -1; selp.u32 %r7, 1, 0, %p3;
    or.b32 %r4, %r4, %r7; st.global.u32 [%d0], %r4;)";
  const auto out = run_small_kernel(small_kernel(body));
  for (std::uint32_t lane = 0; lane < 32; ++lane) {
    std::uint32_t steps = 0;
    for (std::uint32_t n = lane + 1; n != 1; ++steps) n = n % 2 == 1 ? 3 * n + 1 : n / 2;
    EXPECT_EQ(out[lane], steps << 1 | 1U) << lane;
  }
}

TEST(Warp, KnowsWhichThreadsItsLanesAre) {
  const std::string text = R"(.entry k(.param .u64 out) { .reg .b32 %r<9>; .reg .b64 %d<3>;
    mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %tid.z; mov.u32 %r3, %ntid.x; mov.u32 %r4, %ntid.y;
    mad.lo.u32 %r5, %r2, %r4, %r1; mad.lo.u32 %r5, %r5, %r3, %r0;
    ld.param.u64 %d0, [out]; mul.wide.u32 %d1, %r5, 4; add.u64 %d0, %d0, %d1;
    mov.u32 %r6, %laneid; mov.u32 %r7, %warpid; shl.b32 %r7, %r7, 5; add.u32 %r6, %r6, %r7;
    mov.u32 %r8, %lanemask_lt; shl.b32 %r8, %r8, 8; or.b32 %r6, %r6, %r8; st.global.u32 [%d0], %r6; ret; })";
  const Module module = Module::parse(text);
  std::vector<std::uint32_t> out(5 * 3 * 4);
  std::uint32_t* pointer = out.data();
  void* const arguments[] = {&pointer};
  Machine({}).launch(module.kernel("k"), {}, {5, 3, 4}, 0, arguments);
  for (std::uint32_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], ((1U << i % 32) - 1) << 8 | i);
}

TEST(Warp, GuardsHoldLanesBack) {
  const std::string body = R"(setp.lt.u32 %p1, %r0, 7; mov.u32 %r3, 1; @%p1 mov.u32 %r3, 2;
    setp.eq.u32 %p2, %r0, 99; @%p2 trap; st.global.u32 [%d0], %r3;)";
  const auto out = run_small_kernel(small_kernel(body));
  EXPECT_EQ(out[6], 2U);
  EXPECT_EQ(out[7], 1U);
}

TEST(Warp, LanesThatWaitForALaterOneInTheTextLetItRun) {
  // Lane 1 holds the lock at first and lets it go behind the loop in which lane 0 asks for it.
  const std::string body = R"(.shared .u32 lock; mov.u32 %r3, 1; st.shared.u32 [lock], %r3;
    setp.eq.u32 %p1, %r0, 1; @%p1 bra holder; setp.ne.u32 %p2, %r0, 0; @%p2 bra done;
    again: atom.shared.exch.b32 %r4, [lock], 1; setp.ne.u32 %p3, %r4, 0; @%p3 bra again;
    mov.u32 %r5, 77; st.global.u32 [%d0], %r5; bra done;
    holder: mov.u32 %r6, 0; atom.shared.exch.b32 %r4, [lock], %r6; done:)";
  EXPECT_EQ(run_small_kernel(small_kernel(body), {.num_threads = 2}).front(), 77U);
}

TEST(Warp, AlignedInstructionsWaitForTheWholeWarp) {
  // The barrier comes first in the text, but is reached by some lanes over a detour behind it.
  const std::string body = R"(setp.lt.u32 %p1, %r0, 9; mov.u32 %r3, 0; @%p1 bra detour;
    join: bar.sync 0; activemask.b32 %r4; st.global.u32 [%d0], %r4; bra done;
    detour: add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 50; @%p2 bra detour; bra join; done:)";
  for (const std::uint32_t word : run_small_kernel(small_kernel(body), {.num_threads = 64})) EXPECT_EQ(word, ~0U);
}

TEST(Warp, ErrorsNameKernelLineInstructionAndLanes) {
  const std::string error =
      error_of_small_kernel(small_kernel("setp.eq.u32 %p1, %r0, 33;\n@%p1 trap;"), {.num_threads = 64, .num_ctas = 2});
  EXPECT_NE(error.find("k, PTX line 20, trap, CTA ("), std::string::npos) << error;
  EXPECT_NE(error.find("warp 1, lanes 0x2: the kernel gave up"), std::string::npos) << error;
}

TEST(Warp, TimeIsWhatItHasExecuted) {
  const std::string body = R"(mov.u64 %d2, %globaltimer; mov.u32 %r3, 0;
    loop: add.u32 %r3, %r3, 1; setp.lt.u32 %p2, %r3, 100; @%p2 bra loop;
    mov.u64 %d3, %globaltimer; sub.u64 %d3, %d3, %d2; cvt.u32.u64 %r4, %d3; st.global.u32 [%d0], %r4;)";
  EXPECT_EQ(run_small_kernel(small_kernel(body)).front(), 302U);
}

}  // namespace
}  // namespace ptx
