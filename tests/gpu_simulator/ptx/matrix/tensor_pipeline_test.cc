#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstdint>
#include <regex>
#include <string>
#include <vector>

#include "ptx/error.h"
#include "ptx/machine.h"
#include "ptx/memory/tensor_map.h"

// A whole kernel: a warp that feeds a ring of two stages by the bulk engine, a warpgroup that multiplies.

namespace ptx {
namespace {

constexpr int kSteps = 5;  // of 64 in depth
constexpr int kDepth = 64 * kSteps;

int element_a(int row, int depth) { return (row * 7 + depth * 3 + row * depth) % 11 - 5; }
int element_b(int column, int depth) { return (column * 5 + depth * 13 + column * depth / 3) % 9 - 4; }

std::string accumulators() {
  std::string names = "{%f0";
  for (int i = 1; i < 32; ++i) names += ", %f" + std::to_string(i);
  return names + "}";
}

// Stage s: A at 16384 * s, B 8192 behind. Barriers at 32768: full[2], empty[2].
std::string kernel_text() {
  std::string text = R"(
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 memory[];
.visible .entry k(.param .u64 k_out, .param .align 64 .b8 k_a[128], .param .align 64 .b8 k_b[128])
.maxntid 160, 1, 1
{
.reg .pred %p<9>;
.reg .b32 %r<30>;
.reg .b64 %rd<30>;
.reg .f32 %f<33>;
mov.u32 %r0, %tid.x;
mov.u32 %r1, memory;
add.s32 %r2, %r1, 32768;
mov.b64 %rd1, k_a;
cvta.param.u64 %rd1, %rd1;
mov.b64 %rd2, k_b;
cvta.param.u64 %rd2, %rd2;
setp.ne.u32 %p1, %r0, 0;
@%p1 bra $ready;
mbarrier.init.shared::cta.b64 [%r2], 1;
mbarrier.init.shared::cta.b64 [%r2+8], 1;
mbarrier.init.shared::cta.b64 [%r2+16], 128;
mbarrier.init.shared::cta.b64 [%r2+24], 128;
fence.mbarrier_init.release.cluster;
fence.proxy.async.shared::cta;
prefetch.tensormap [%rd1];
$ready:
bar.sync 0;
mov.u32 %r3, 0;
setp.lt.u32 %p1, %r0, 128;
@%p1 bra $multiply;
setp.ne.u32 %p1, %r0, 128;
@%p1 bra $end;

$feed:
and.b32 %r4, %r3, 1;
shr.u32 %r5, %r3, 1;
and.b32 %r5, %r5, 1;
xor.b32 %r5, %r5, 1;
mad.lo.s32 %r6, %r4, 8, %r2;
mad.lo.s32 %r7, %r4, 16384, %r1;
add.s32 %r8, %r7, 8192;
shl.b32 %r9, %r3, 6;
$wait_empty:
mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r6+16], %r5;
@!%p2 bra $wait_empty;
mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r6], 16384;
cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r7], [%rd1, {%r9, 0}], [%r6];
cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%r8], [%rd2, {%r9, 0}], [%r6];
add.s32 %r3, %r3, 1;
setp.lt.u32 %p1, %r3, STEPS;
@%p1 bra $feed;
bra $end;

$multiply:
and.b32 %r4, %r3, 1;
shr.u32 %r5, %r3, 1;
and.b32 %r5, %r5, 1;
mad.lo.s32 %r6, %r4, 8, %r2;
mad.lo.s32 %r7, %r4, 16384, %r1;
shr.u32 %r8, %r7, 4;
cvt.u64.u32 %rd3, %r8;
or.b64 %rd3, %rd3, 4611686293305360384;
add.s64 %rd4, %rd3, 512;
setp.ne.u32 %p3, %r3, 0;
$wait_full:
mbarrier.try_wait.parity.shared::cta.b64 %p2, [%r6], %r5;
@!%p2 bra $wait_full;
wgmma.fence.sync.aligned;
)";
  for (int quarter = 0; quarter < 4; ++quarter) {
    text += "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " + accumulators() + ", %rd3, %rd4, " +
            (quarter == 0 ? "%p3" : "1") + ", 1, 1, 0, 0;\nadd.s64 %rd3, %rd3, 2;\nadd.s64 %rd4, %rd4, 2;\n";
  }
  text += R"(
wgmma.commit_group.sync.aligned;
wgmma.wait_group.sync.aligned 0;
mbarrier.arrive.shared::cta.b64 _, [%r6+16];
add.s32 %r3, %r3, 1;
setp.lt.u32 %p1, %r3, STEPS;
@%p1 bra $multiply;
ld.param.u64 %rd5, [k_out];
mul.wide.u32 %rd6, %r0, 128;
add.s64 %rd5, %rd5, %rd6;
)";
  for (int i = 0; i < 32; ++i)
    text += "st.global.f32 [%rd5+" + std::to_string(4 * i) + "], %f" + std::to_string(i) + ";\n";
  text += "$end:\nret;\n}\n";
  return std::regex_replace(text, std::regex("STEPS"), std::to_string(kSteps));
}

std::string without(std::string text, const std::string& part, const std::string& instead = "") {
  const std::size_t at = text.find(part);
  EXPECT_NE(at, std::string::npos) << part;
  return text.replace(at, part.size(), instead);
}

class TensorPipeline : public testing::Test {
 protected:
  struct alignas(64) Map {
    std::array<std::byte, 128> bytes{};
  };

  // Host address of [64][kDepth] bf16.
  static std::vector<std::uint16_t> tensor(int (*element)(int, int)) {
    std::vector<std::uint16_t> values;
    for (int row = 0; row < 64; ++row) {
      for (int depth = 0; depth < kDepth; ++depth) {
        values.push_back(
            static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(static_cast<float>(element(row, depth))) >> 16));
      }
    }
    return values;
  }
  static Map map_of(const std::vector<std::uint16_t>& values) {
    const std::uint64_t sizes[] = {kDepth, 64};
    const std::uint64_t strides[] = {kDepth * 2};
    const std::uint32_t box[] = {64, 64};
    const std::uint32_t steps[] = {1, 1};
    Map map;
    EXPECT_EQ(encode_tensor_map(&map, 9, 2, const_cast<std::uint16_t*>(values.data()), sizes, strides, box, steps, 0, 3,
                                0, 0),
              0);
    return map;
  }
  std::vector<float> run(const std::string& text, std::uint64_t seed) {
    const Module module = Module::parse(text);
    std::vector<float> out(128 * 32);
    float* pointer = out.data();
    void* const arguments[] = {&pointer, &map_a, &map_b};
    Machine({.seed = seed, .most_instructions = 1 << 20})
        .launch(module.kernel("k"), {}, {160, 1, 1}, 32768 + 32, arguments);
    return out;
  }
  // Of so many seeds, those that an Error stops.
  int stopped(const std::string& text, int seeds) {
    int count = 0;
    for (int seed = 1; seed <= seeds; ++seed) {
      try {
        run(text, static_cast<std::uint64_t>(seed));
      } catch (const Error&) {
        ++count;
      }
    }
    return count;
  }

  std::vector<std::uint16_t> a = tensor(element_a);
  std::vector<std::uint16_t> b = tensor(element_b);
  Map map_a = map_of(a);
  Map map_b = map_of(b);
};

TEST_F(TensorPipeline, MultipliesWhateverTheOrder) {
  const std::string text = kernel_text();
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    const std::vector<float> out = run(text, seed);
    for (int thread = 0; thread < 128; ++thread) {
      for (int i = 0; i < 32; ++i) {
        const int row = thread / 32 * 16 + thread % 32 / 4 + (i % 4 < 2 ? 0 : 8);
        const int column = i / 4 * 8 + thread % 4 * 2 + i % 2;
        int sum = 0;
        for (int k = 0; k < kDepth; ++k) sum += element_a(row, k) * element_b(column, k);
        ASSERT_EQ(out[static_cast<std::size_t>(thread * 32 + i)], static_cast<float>(sum)) << seed;
      }
    }
  }
}

TEST_F(TensorPipeline, ARingThatIsNotWaitedForIsSeen) {
  EXPECT_GT(stopped(without(kernel_text(), "@!%p2 bra $wait_empty;"), 8), 0);
}

TEST_F(TensorPipeline, StagesGivenBackBeforeTheirProductsHaveEndedAreSeen) {
  EXPECT_GT(stopped(without(kernel_text(), "wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;"), 8),
            0);
}

TEST_F(TensorPipeline, WrongCountsOfBytesHang) {
  EXPECT_EQ(stopped(without(kernel_text(), "[%r6], 16384", "[%r6], 16400"), 4), 4);
  EXPECT_EQ(stopped(without(kernel_text(), "[%r6], 16384", "[%r6], 16368"), 4), 4);
}

TEST_F(TensorPipeline, ABarrierForTooFewIsSeen) {
  EXPECT_EQ(stopped(without(kernel_text(), "[%r2+16], 128", "[%r2+16], 96"), 4), 4);
}

}  // namespace
}  // namespace ptx
