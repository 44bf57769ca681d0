#include "ptx/cta.h"

#include <gtest/gtest.h>

#include <string>

#include "ptx/testing/small_kernel.h"

namespace ptx {
namespace {

class CtaTest : public ::testing::Test {
 protected:
  CtaTest() {
    kernel.shared_bytes = 100;
    kernel.uses_async_proxy = true;
  }
  Cta make(std::size_t dynamic_shared_bytes) {
    return Cta(kernel, {}, {64, 1, 1}, {}, dynamic_shared_bytes, {}, random);
  }
  Kernel kernel;
  std::mt19937_64 random{1};
};

TEST_F(CtaTest, SharedMemoryIsAlignedFullOfNanAndBounded) {
  Cta cta = make(50);
  EXPECT_EQ(cta.shared_base() % 1024, 0U);
  EXPECT_EQ(*cta.shared(1024 + 49, 1, 1), std::byte{0xff});
  EXPECT_THROW(cta.shared(1024 + 49, 2, 1), Error);
  EXPECT_THROW(cta.shared(~std::uint64_t{0}, 2, 1), Error);
  EXPECT_THROW(cta.shared(6, 4, 4), Error);
  EXPECT_TRUE(cta.is_shared(cta.shared_base() + 1073));
  EXPECT_FALSE(cta.is_shared(cta.shared_base() + 1074));
  EXPECT_FALSE(cta.is_shared(cta.shared_base() - 1));
}

TEST_F(CtaTest, StoresAreFollowedUntilTheirWarpFences) {
  Cta cta = make(0);
  const Warp& first = cta.warps()[0];
  const Warp& second = cta.warps()[1];
  cta.stored(first, 16, 8);
  cta.stored(second, 32, 4);
  EXPECT_NO_THROW(cta.require_fenced(0, 16));
  EXPECT_THROW(cta.require_fenced(0, 17), Error);
  cta.proxy_fence(second);
  EXPECT_NO_THROW(cta.require_fenced(24, 76));
  EXPECT_THROW(cta.require_fenced(23, 1), Error);
  cta.proxy_fence(first);
  EXPECT_NO_THROW(cta.require_fenced(0, 100));
}

TEST_F(CtaTest, CopiesArriveOneAtATime) {
  Cta cta = make(0);
  int sum = 0;
  EXPECT_FALSE(cta.deliver());
  cta.post([&] { sum += 1; });
  cta.post([&] { sum += 10; });
  const std::uint64_t changes = cta.changes();
  EXPECT_TRUE(cta.deliver());
  EXPECT_TRUE(sum == 1 || sum == 10);
  EXPECT_GT(cta.changes(), changes);
  EXPECT_TRUE(cta.deliver());
  EXPECT_EQ(sum, 11);
  EXPECT_FALSE(cta.has_posted());
}

TEST_F(CtaTest, AWaitingWarpIsCountedOnce) {
  Cta cta = make(0);
  EXPECT_FALSE(cta.barrier(3, 64, cta.warps()[0], true));
  EXPECT_FALSE(cta.barrier(3, 64, cta.warps()[0], true));
  EXPECT_TRUE(cta.barrier(3, 64, cta.warps()[1], true));
  EXPECT_TRUE(cta.barrier(3, 64, cta.warps()[0], true));
  EXPECT_FALSE(cta.barrier(3, 64, cta.warps()[0], true));  // the next phase
}

}  // namespace
}  // namespace ptx
