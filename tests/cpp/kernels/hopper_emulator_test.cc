// The emulator of Hopper's instructions notices kernels that a GPU would punish, perhaps only sometimes: the prefill
// kernel runs here on machines that leave one thing out or get one thing wrong.
#include <gtest/gtest.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "attention_hopper_run.h"

namespace fastserve::kernels {
namespace {

constexpr const char* kWrong = "wrong result";

/// What is wrong with the kernel on this machine: the emulator's words, kWrong, or nothing.
template <typename Machine>
std::string fault(void (*change)(TensorMapSpec&, TensorMapSpec&) = nullptr) {
  const auto batch = [] { return Batch({DType::kBFloat16, 128, 2, 1, 16}, {270, 131, 20}, {3, 3, 1}); };
  static const std::vector<std::uint8_t> right = [&] {
    Batch tried = batch();
    hopper<DType::kBFloat16, 128>(tried, 1);
    return tried.result();
  }();
  Batch tried = batch();
  try {
    hopper<DType::kBFloat16, 128, Machine>(tried, 1, {}, change);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return tried.result() == right ? "" : kWrong;
}

TEST(HopperEmulator, FindsNothingWhereNothingIsWrong) { EXPECT_EQ(fault<EmulatedHopper>(), ""); }

struct WithoutBarrierWait : EmulatedHopper {
  static void barrier_wait(std::uint64_t*, std::uint32_t) {}
};
struct WithFewerWarpsToWaitFor : EmulatedHopper {
  static void barrier_init(std::uint64_t* barrier, int arrivals) {
    EmulatedHopper::barrier_init(barrier, arrivals == 8 ? 4 : arrivals);
  }
};
struct WithFewerBytes : EmulatedHopper {
  static void barrier_expect(std::uint64_t* barrier, int bytes) { EmulatedHopper::barrier_expect(barrier, bytes / 2); }
};
struct WithMoreBytes : EmulatedHopper {
  static void barrier_expect(std::uint64_t* barrier, int bytes) { EmulatedHopper::barrier_expect(barrier, bytes + 16); }
};
struct WithoutBarriersReady : EmulatedHopper {
  static void barriers_ready() {}
};

TEST(HopperEmulator, FindsWaitsThatAreMissingOrWrong) {
  EXPECT_NE(fault<WithoutBarrierWait>(), "");
  EXPECT_NE(fault<WithFewerWarpsToWaitFor>(), "");
  EXPECT_EQ(fault<WithFewerBytes>(), "bytes arrived at a barrier that did not expect them");
  EXPECT_EQ(fault<WithMoreBytes>(), "threads wait for each other for ever");
  EXPECT_EQ(fault<WithoutBarriersReady>(), "a barrier is used before barriers_ready");
}

struct WithoutWgmmaWait : EmulatedHopper {
  template <int kLeft, typename... Registers>
  static void wgmma_wait(Registers&...) {}
};
struct WithOneGroupTooMany : EmulatedHopper {
  template <int kLeft, typename... Registers>
  static void wgmma_wait(Registers&... registers) {
    EmulatedHopper::wgmma_wait<kLeft + 1>(registers...);
  }
};
struct WithoutWgmmaFence : EmulatedHopper {
  template <typename... Registers>
  static void wgmma_fence(Registers&...) {}
};
struct WithoutWgmmaCommit : EmulatedHopper {
  static void wgmma_commit() {}
};

TEST(HopperEmulator, FindsProductsThatAreNotFencedOrWaitedFor) {
  EXPECT_NE(fault<WithoutWgmmaWait>(), "");
  EXPECT_EQ(fault<WithOneGroupTooMany>(), "a wait names registers of a product that it does not wait for");
  EXPECT_EQ(fault<WithoutWgmmaFence>(), "accumulators were written after the last fence");
  EXPECT_EQ(fault<WithoutWgmmaCommit>(), "a wait names registers of a product that it does not wait for");
}

/// Changes the descriptors of the right operands: keys where `add` is given, values otherwise.
template <std::uint64_t kKeys, std::uint64_t kValues>
struct WithOtherBits : EmulatedHopper {
  template <DType kType, int kTiles>
  static void wgmma(float (&c)[kTiles][4], std::uint64_t a, std::uint64_t b, bool add) {
    EmulatedHopper::wgmma<kType>(c, a, b ^ kKeys, add);
  }
  template <DType kType, int kTiles>
  static void wgmma(float (&c)[kTiles][4], const std::uint32_t (&a)[4], std::uint64_t b) {
    EmulatedHopper::wgmma<kType>(c, a, b ^ kValues);
  }
};
constexpr std::uint64_t kStart = 1, kPanel = 1ull << 18, kGroup = 1ull << 36, kMode = 1ull << 63;

TEST(HopperEmulator, FindsWrongDescriptors) {
  EXPECT_EQ((fault<WithOtherBits<kStart, 0>>()), kWrong);
  EXPECT_EQ((fault<WithOtherBits<kPanel, 0>>()), "");  // means nothing for operands that are summed over neighbours
  EXPECT_NE((fault<WithOtherBits<kGroup, 0>>()), "");
  EXPECT_EQ((fault<WithOtherBits<kMode, 0>>()), kWrong);
  EXPECT_EQ((fault<WithOtherBits<0, kStart>>()), kWrong);
  EXPECT_NE((fault<WithOtherBits<0, kPanel>>()), "");
  EXPECT_NE((fault<WithOtherBits<0, kGroup>>()), "");
  EXPECT_NE((fault<WithOtherBits<0, kMode>>()), "");
  EXPECT_EQ((fault<WithOtherBits<1ull << 62, 0>>()), "a matrix without swizzle is not known here");
}

TEST(HopperEmulator, FindsWrongTensorMaps) {
  constexpr const char* kRefused = "the driver would refuse this tensor map";
  const auto with = fault<EmulatedHopper>;
  EXPECT_EQ(with([](TensorMapSpec&, TensorMapSpec& pages) { pages.strides[3] += 8; }), kRefused);
  EXPECT_EQ(with([](TensorMapSpec&, TensorMapSpec& pages) { pages.swizzle_bytes = 64; }), kRefused);
  EXPECT_EQ(with([](TensorMapSpec&, TensorMapSpec& pages) { std::swap(pages.strides[0], pages.strides[1]); }), kWrong);
  EXPECT_EQ(with([](TensorMapSpec& queries, TensorMapSpec&) { queries.box[2] /= 2; }),
            "threads wait for each other for ever");
  EXPECT_EQ(with([](TensorMapSpec& queries, TensorMapSpec&) { queries.sizes[2] -= 1; }), kWrong);
}

struct WithoutProxyFence : EmulatedHopper {
  static void proxy_fence() {}
};
struct WithoutBarrierOfAWarpgroup : EmulatedHopper {
  static void named_sync(int id, int threads) {
    if (id < 3) EmulatedHopper::named_sync(id, threads);
  }
};
struct WithoutClearedTail : EmulatedHopper {
  static void store16(void*, Word4) {}
};
struct WithoutTurns : EmulatedHopper {
  static void named_arrive(int, int) {}
};
struct WithOneTurnTooMany : EmulatedHopper {
  static void named_sync(int id, int threads) {
    EmulatedHopper::named_sync(id, threads);
    if (id == 2) EmulatedHopper::named_arrive(1, threads);
  }
};
struct WithTooManyRegisters : EmulatedHopper {
  template <int kCount>
  static void take_registers() {
    EmulatedHopper::take_registers<kCount + 8>();
  }
};

TEST(HopperEmulator, FindsStoresAndBarriersThatAreMissing) {
  constexpr const char* kUnseen = "a store to shared memory needs proxy_fence and a barrier before this";
  EXPECT_EQ(fault<WithoutProxyFence>(), kUnseen);
  EXPECT_EQ(fault<WithoutBarrierOfAWarpgroup>(), kUnseen);
  EXPECT_EQ(fault<WithoutClearedTail>(), kWrong);  // NaN from what no token has written
  EXPECT_EQ(fault<WithoutTurns>(), "threads wait for each other for ever");
  EXPECT_EQ(fault<WithOneTurnTooMany>(), "a thread arrives twice");
  EXPECT_EQ(fault<WithTooManyRegisters>(), "the warpgroups took more registers than there are");
}

}  // namespace
}  // namespace fastserve::kernels
