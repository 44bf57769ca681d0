#include "sched/thrash_governor.h"

#include <gtest/gtest.h>

namespace fastserve::sched {
namespace {

constexpr double kIterationS = 0.01;

void run_window(ThrashGovernor& governor, const ThrashGovernor::Totals& totals) {
  for (std::int64_t i = 0; i < ThrashGovernor::kWindowIterations; ++i)
    governor.on_iteration(totals, kIterationS, kIterationS);
}

TEST(ThrashGovernor, TripsOnParksPerFinishAndRecovers) {
  ThrashGovernor governor(2.0);
  run_window(governor, {.parks = 100, .finished = 60});
  EXPECT_FALSE(governor.active());
  run_window(governor, {.parks = 300, .finished = 120});
  EXPECT_TRUE(governor.active());
  EXPECT_EQ(governor.trips(), 1);
  for (std::int64_t i = 0; i < ThrashGovernor::kCooldownIterations; ++i)
    governor.on_iteration({.parks = 300, .finished = 200}, kIterationS, kIterationS);
  EXPECT_FALSE(governor.active());
}

TEST(ThrashGovernor, OnlyAWholeWindowAfterTheCooldownIsJudged) {
  ThrashGovernor governor(2.0);
  ThrashGovernor::Totals totals{.parks = 100};
  run_window(governor, totals);
  for (std::int64_t i = 0; i < ThrashGovernor::kCooldownIterations; ++i) {
    EXPECT_TRUE(governor.active());
    totals.parks += 10;  // requests that run out of memory park all the same
    governor.on_iteration(totals, kIterationS, kIterationS);
  }
  EXPECT_FALSE(governor.active());
  run_window(governor, totals);
  EXPECT_FALSE(governor.active());
  totals.parks += 100;
  run_window(governor, totals);
  EXPECT_TRUE(governor.active());
  EXPECT_EQ(governor.trips(), 2);
}

TEST(ThrashGovernor, TripsOnABusyLink) {
  ThrashGovernor governor(1e9);
  const double window_s = kIterationS * ThrashGovernor::kWindowIterations;
  run_window(governor, {.parks = 40, .finished = 100, .copy_s = 0.7 * window_s});
  EXPECT_FALSE(governor.active());
  run_window(governor, {.parks = 80, .finished = 200, .copy_s = 1.6 * window_s});
  EXPECT_TRUE(governor.active());
}

TEST(ThrashGovernor, FewParksAreNeverThrashing) {
  ThrashGovernor governor(0.1);
  run_window(governor, {.parks = ThrashGovernor::kMinParks - 1, .finished = 1});
  EXPECT_FALSE(governor.active());
}

TEST(ThrashGovernor, TheDropBudgetIsAShareOfTheTimeLessWhatWasDropped) {
  ThrashGovernor governor(8.0);
  EXPECT_EQ(governor.drop_budget_s(), 0.0);
  governor.on_iteration({}, kIterationS, kIterationS);
  EXPECT_DOUBLE_EQ(governor.drop_budget_s(), ThrashGovernor::kDropShare * kIterationS);
  governor.on_iteration({.dropped_s = 0.5}, kIterationS, kIterationS);  // growth drops at any price
  EXPECT_DOUBLE_EQ(governor.drop_budget_s(), 2 * ThrashGovernor::kDropShare * kIterationS - 0.5);
}

TEST(ThrashGovernor, TheDropBudgetDoesNotGrowBeyondAWindow) {
  ThrashGovernor governor(8.0);
  for (int window = 0; window < 3; ++window) run_window(governor, {});
  EXPECT_DOUBLE_EQ(governor.drop_budget_s(),
                   ThrashGovernor::kDropShare * ThrashGovernor::kWindowIterations * kIterationS);
}

}  // namespace
}  // namespace fastserve::sched
