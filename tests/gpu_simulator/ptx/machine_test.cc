#include "ptx/machine.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "ptx/testing/small_kernel.h"

namespace ptx {
namespace {

TEST(Machine, RunsEveryCtaOfTheGrid) {
  const std::string text = R"(.entry k(.param .u64 out, .param .u32 factor) { .reg .b32 %r<9>; .reg .b64 %d<3>;
    mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ctaid.y; mov.u32 %r2, %ctaid.z; mov.u32 %r3, %nctaid.x; mov.u32 %r4, %nctaid.y;
    mad.lo.u32 %r5, %r2, %r4, %r1; mad.lo.u32 %r5, %r5, %r3, %r0; ld.param.u64 %d0, [out]; ld.param.u32 %r6, [factor];
    mul.wide.u32 %d1, %r5, 4; add.u64 %d0, %d0, %d1; mul.lo.u32 %r6, %r6, %r5; st.global.u32 [%d0], %r6; })";
  const Module module = Module::parse(text);
  std::vector<std::uint32_t> out(3 * 4 * 5);
  std::uint32_t* pointer = out.data();
  std::uint32_t factor = 3;
  void* const arguments[] = {&pointer, &factor};
  Machine({}).launch(module.kernel("k"), {3, 4, 5}, {}, 0, arguments);
  for (std::uint32_t i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], 3 * i);
}

TEST(Machine, OrderDependsOnTheSeedAlone) {
  // Warps draw numbers; which warp gets which number is a matter of chance.
  const std::string text = small_kernel(
      "mov.u64 %d2, count;\natom.global.add.u32 %r3, [%d2], 1;\nst.global.u32 [%d0], %r3;", ".global .u32 count = 0;");
  std::set<std::vector<std::uint32_t>> orders;
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    const SmallLaunch launch{.num_threads = 128, .num_ctas = 6, .options = {.seed = seed}};
    const auto out = run_small_kernel(text, launch);
    EXPECT_EQ(out, run_small_kernel(text, launch));
    EXPECT_EQ(std::set<std::uint32_t>(out.begin(), out.end()).size(), out.size());
    orders.insert(out);
  }
  EXPECT_GT(orders.size(), 4U);
}

TEST(Machine, AMissingBarrierFailsForSomeSeed) {
  const std::string body = R"(.shared .u32 words[64]; shl.b32 %r4, %r0, 2; mov.u32 %r8, words;
    add.u32 %r4, %r4, %r8; xor.b32 %r5, %r4, 128; st.shared.u32 [%r4], %r0; ld.shared.u32 %r6, [%r5];
    st.global.u32 [%d0], %r6;)";
  int wrong = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    wrong += run_small_kernel(small_kernel(body), {.num_threads = 64, .options = {.seed = seed}})[0] != 32;
  }
  EXPECT_GT(wrong, 0);
}

TEST(Machine, RefusesWhatAGpuWould) {
  const std::string text = small_kernel("");
  EXPECT_NE(error_of_small_kernel(text, {.num_threads = 1025}).find("1025 threads"), std::string::npos);
  EXPECT_NE(error_of_small_kernel(text, {.dynamic_shared_bytes = 227 * 1024 + 1}).find("shared memory"),
            std::string::npos);
  EXPECT_NE(error_of_small_kernel(text, {.num_ctas = 0}).find("empty grid"), std::string::npos);
  const Module module = Module::parse(text);
  EXPECT_THROW(Machine({}).launch(module.kernel("k"), {}, {}, 0, {}), Error);
}

TEST(Machine, AKernelThatNeverEndsIsCutOff) {
  const std::string error =
      error_of_small_kernel(small_kernel("again: bra again;"), {.options = {.most_instructions = 100'000}});
  EXPECT_NE(error.find("over the budget"), std::string::npos) << error;
  EXPECT_NE(error.find("warp 0: lanes 0xffffffff at line 19 bra"), std::string::npos) << error;
}

TEST(Machine, AWaitForNothingIsAHang) {
  const std::string body = R"(.shared .align 8 .b64 barrier; mov.u32 %r3, barrier; setp.ne.u32 %p1, %r0, 0;
    @%p1 bra ready; mbarrier.init.shared::cta.b64 [%r3], 1; ready: bar.sync 0;
    again: mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r3], 0; @!%p2 bra again;)";
  const std::string error = error_of_small_kernel(small_kernel(body), {.num_threads = 64});
  EXPECT_NE(error.find("hang"), std::string::npos) << error;
  EXPECT_NE(error.find("warp 1"), std::string::npos) << error;
}

}  // namespace
}  // namespace ptx
