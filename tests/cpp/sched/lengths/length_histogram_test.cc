#include "sched/lengths/length_histogram.h"

#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"

namespace fastserve::sched {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

TEST(LengthHistogram, CountsTheShareThatEndsInABinOfThoseWhoGotThere) {
  LengthHistogram histogram(kNever, 0.0);
  for (const std::int32_t tokens : {1, 1, 2, 4}) histogram.ended(tokens);
  const auto hazards = histogram.hazards();
  EXPECT_DOUBLE_EQ(hazards[0], 2.0 / 4);
  EXPECT_DOUBLE_EQ(hazards[1], 1.0 / 2);
  EXPECT_DOUBLE_EQ(hazards[2], 0.0);
  EXPECT_DOUBLE_EQ(hazards[3], 1.0);
  EXPECT_EQ(histogram.num_observed(), 4);
}

TEST(LengthHistogram, HandlesCensoredLengthsAsKaplanAndMeierDo) {
  // Ends at 2, 4, 4 and 6; one more was aborted after 3 tokens and one after 4.
  LengthHistogram histogram(kNever, 0.0);
  for (const std::int32_t tokens : {2, 4, 4, 6}) histogram.ended(tokens);
  histogram.censored(3);
  histogram.censored(4);
  const auto hazards = histogram.hazards();
  EXPECT_DOUBLE_EQ(hazards[1], 1.0 / 6);
  EXPECT_DOUBLE_EQ(hazards[2], 0.0);
  EXPECT_DOUBLE_EQ(hazards[3], 2.0 / 4);  // the one aborted after 3 is no longer at risk, the one after 4 is
  EXPECT_DOUBLE_EQ(hazards[5], 1.0);
}

TEST(LengthHistogram, TakesTheLiveRequestsAsCensoredWhereTheyStand) {
  LengthHistogram histogram(kNever, 0.0);
  for (const std::int32_t tokens : {2, 4}) histogram.ended(tokens);
  histogram.live_enters(0);
  EXPECT_DOUBLE_EQ(histogram.hazards()[1], 1.0 / 2);
  histogram.live_moves(0, LengthBins::of(5));
  EXPECT_DOUBLE_EQ(histogram.hazards()[1], 1.0 / 3);
  EXPECT_DOUBLE_EQ(histogram.hazards()[3], 1.0 / 2);
  histogram.live_leaves(LengthBins::of(5));
  EXPECT_DOUBLE_EQ(histogram.hazards()[1], 1.0 / 2);
}

TEST(LengthHistogram, LetsAnOldEndCountHalfAfterTheHalfLife) {
  LengthHistogram histogram(10.0, 0.0);
  for (int i = 0; i < 10; ++i) histogram.ended(2);
  for (int i = 0; i < 10; ++i) histogram.ended(4);
  EXPECT_NEAR(histogram.hazards()[1], 1.0 / 3, 1e-12);
}

TEST(LengthHistogram, ScalesItsWeightsDownWithoutAChange) {
  LengthHistogram histogram(1.0, 0.0);  // the weights pass the largest one several times
  for (int i = 0; i < 200; ++i) histogram.ended(i % 2 == 0 ? 2 : 4);
  EXPECT_NEAR(histogram.hazards()[1], 1.0 / 3, 1e-12);  // the last end, at 4, counts twice the one before
}

TEST(LengthHistogram, ExpectsAHeavyTailWhereItKnowsNothing) {
  LengthHistogram histogram(kNever);
  const auto prior = histogram.hazards();
  EXPECT_NEAR(prior[0], 1.0 - 16.0 / 17.0, 1e-12);
  EXPECT_NEAR(prior[8], 1.0 - 24.0 / 25.0, 1e-12);
  EXPECT_DOUBLE_EQ(prior[LengthBins::kNum - 1], 1.0);
  histogram.ended(1);
  EXPECT_NEAR(histogram.hazards()[0], (1.0 + prior[0]) / 2, 1e-12);
  EXPECT_NEAR(histogram.hazards()[8], prior[8], 1e-12);
}

TEST(LengthHistogram, TakesAnotherPriorForSoManyObservations) {
  LengthHistogram histogram(kNever);
  LengthHistogram::Hazards prior{};
  prior[0] = 0.5;
  prior[1] = 1.0;
  EXPECT_DOUBLE_EQ(histogram.hazards(prior, 4.0)[0], 0.5);
  for (int i = 0; i < 4; ++i) histogram.ended(2);
  EXPECT_DOUBLE_EQ(histogram.hazards(prior, 4.0)[0], 0.25);
  EXPECT_DOUBLE_EQ(histogram.hazards(prior, 4.0)[1], 1.0);
}

TEST(LengthHistogram, RefusesAHalfLifeThatIsNotPositive) { EXPECT_THROW(LengthHistogram(0.0), InvalidArgumentError); }

}  // namespace
}  // namespace fastserve::sched
