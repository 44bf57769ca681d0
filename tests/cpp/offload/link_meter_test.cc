#include "offload/link_meter.h"

#include <gtest/gtest.h>

namespace fastserve::offload {
namespace {

TEST(LinkMeter, GivesThePriorUntilTheFirstCopyAndThenForgetsIt) {
  LinkMeter meter(10e9);
  EXPECT_EQ(meter.bytes_per_s(), 10e9);
  meter.add(500, 1.0);
  EXPECT_DOUBLE_EQ(meter.bytes_per_s(), 500);
}

TEST(LinkMeter, WeighsCopiesByTheirBytesAndDecaysOlderOnes) {
  LinkMeter meter(1);
  meter.add(1000, 1.0);
  meter.add(100, 1.0);
  EXPECT_DOUBLE_EQ(meter.bytes_per_s(), (0.8 * 1000 + 100) / 1.8);
  for (int i = 0; i < 100; ++i) meter.add(300, 1.0);
  EXPECT_NEAR(meter.bytes_per_s(), 300, 1e-3);
}

TEST(LinkMeter, StaysFiniteForACopyTheClockDidNotSee) {
  LinkMeter meter(1);
  meter.add(64, 0.0);
  EXPECT_DOUBLE_EQ(meter.bytes_per_s(), 64e9);
}

}  // namespace
}  // namespace fastserve::offload
