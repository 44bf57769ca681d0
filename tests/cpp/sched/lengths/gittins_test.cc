#include "sched/lengths/gittins.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

namespace fastserve::sched {
namespace {

using Hazards = std::array<double, LengthBins::kNum>;
constexpr LengthWeight kMeanLatency{.flat = 1.0, .inverse = 0.0};
constexpr LengthWeight kNormalisedLatency{.flat = 0.0, .inverse = 1.0};

GittinsIndex made_of(const Hazards& hazards, LengthWeight weight) {
  GittinsIndex index(weight);
  index.rebuild(hazards);
  return index;
}

Hazards hazards_of(double (*survival)(double)) {
  Hazards hazards{};
  for (std::int32_t bin = 0; bin + 1 < LengthBins::kNum; ++bin)
    hazards[static_cast<std::size_t>(bin)] =
        1.0 - survival(LengthBins::edge(bin + 1)) / survival(LengthBins::edge(bin));
  return hazards;
}

/// Always 5 tokens.
Hazards deterministic() {
  Hazards hazards{};
  hazards[4] = 1.0;
  return hazards;
}

/// 1 token or 10, equally likely.
Hazards two_points() {
  Hazards hazards{};
  hazards[0] = 0.5;
  hazards[9] = 1.0;
  return hazards;
}

Hazards geometric() {
  return hazards_of([](double tokens) { return std::pow(0.9, tokens); });
}

TEST(LengthBins, CoverEveryLengthOnceAndAreOneTokenWideAtFirst) {
  for (std::int32_t bin = 0; bin + 1 < LengthBins::kNum; ++bin) {
    EXPECT_EQ(LengthBins::of(LengthBins::edge(bin)), bin);
    EXPECT_EQ(LengthBins::of(LengthBins::edge(bin + 1) - 1), bin);
    if (bin < 16) {
      EXPECT_EQ(LengthBins::edge(bin), bin);
    } else {
      EXPECT_LE(LengthBins::edge(bin + 1), 1.125 * LengthBins::edge(bin));
    }
  }
  EXPECT_EQ(LengthBins::of(2'000'000'000), LengthBins::kNum - 1);
}

TEST(GittinsIndex, IsWhatIsLeftOfAKnownLength) {
  const GittinsIndex index = made_of(deterministic(), kMeanLatency);
  EXPECT_DOUBLE_EQ(index.index(0), 5.0);
  EXPECT_DOUBLE_EQ(index.index(3), 2.0);
  EXPECT_DOUBLE_EQ(index.index(0, 3.0), 8.0);
}

TEST(GittinsIndex, WeighsAKnownLengthByItselfForNormalisedLatency) {
  const GittinsIndex index = made_of(deterministic(), kNormalisedLatency);
  EXPECT_DOUBLE_EQ(index.index(0), 5.0 * 5.0);
  EXPECT_DOUBLE_EQ(index.index(3), 2.0 * 5.0);
  EXPECT_DOUBLE_EQ(index.index(0, 3.0), 8.0 * 5.0);
}

TEST(GittinsIndex, BetsOnTheShortOfTwoLengthsAndJumpsWhenTheBetIsLost) {
  const GittinsIndex mean = made_of(two_points(), kMeanLatency);
  EXPECT_DOUBLE_EQ(mean.index(0), 1.0 / 0.5);  // stopping after 10 would cost 5.5
  EXPECT_DOUBLE_EQ(mean.index(1), 9.0);
  EXPECT_DOUBLE_EQ(mean.index(4), 6.0);
  const GittinsIndex normalised = made_of(two_points(), kNormalisedLatency);
  EXPECT_DOUBLE_EQ(normalised.index(0), 1.0 / 0.5);
  EXPECT_NEAR(normalised.index(1), 9.0 / 0.1, 1e-9);
}

TEST(GittinsIndex, LetsAPrefillChangeTheGoal) {
  const GittinsIndex mean = made_of(two_points(), kMeanLatency);
  EXPECT_DOUBLE_EQ(mean.index(0, 10.0), 10.0 + 5.5);  // against (10 + 1) / 0.5
  const GittinsIndex normalised = made_of(two_points(), kNormalisedLatency);
  EXPECT_DOUBLE_EQ(normalised.index(0, 10.0), 11.0 / 0.5);  // against 15.5 / (0.5 + 0.05)
}

TEST(GittinsIndex, CountsThePrefillOfAnOutputUnderWayInFull) {
  const GittinsIndex index = made_of(two_points(), kMeanLatency);  // half of them get past 1 token
  EXPECT_DOUBLE_EQ(index.index(1), 9.0);
  EXPECT_DOUBLE_EQ(index.index(1, 3.0), 12.0);
  EXPECT_DOUBLE_EQ(index.index(1, 3.0, 6), 8.0);  // 5 tokens to the limit
}

TEST(GittinsIndex, IsConstantForAGeometricLength) {
  const GittinsIndex index = made_of(geometric(), kMeanLatency);
  for (std::int32_t bin = 0; bin < 16; ++bin) EXPECT_NEAR(index.index(bin), 10.0, 1e-9);
  for (std::int32_t bin = 16; LengthBins::edge(bin) < 100; ++bin)
    EXPECT_NEAR(index.index(bin), 10.0, 1.5);  // lengths count as evenly spread within a bin
}

TEST(GittinsIndex, RisesWithTheTokensForAHeavyTail) {
  const GittinsIndex index = made_of(hazards_of([](double tokens) { return 1.0 / (1.0 + tokens); }), kMeanLatency);
  // P(X = a + 1 | X > a) = 1 / (a + 2) falls, so the next token is always the best bet.
  for (std::int32_t tokens = 0; tokens < 15; ++tokens) EXPECT_NEAR(index.index(tokens), tokens + 2.0, 1e-9);
  for (std::int32_t bin = 1; LengthBins::edge(bin) < 10'000; ++bin) EXPECT_GT(index.index(bin), index.index(bin - 1));
}

TEST(GittinsIndex, EndsAtTheLimit) {
  const GittinsIndex mean = made_of(geometric(), kMeanLatency);
  EXPECT_NEAR(mean.index(0, 0.0, 3), 1.0 + 0.9 + 0.81, 1e-9);
  EXPECT_NEAR(mean.index(2, 0.0, 3), 1.0, 1e-9);
  EXPECT_NEAR(mean.index(0, 0.0, 1'000), 10.0, 1e-9);
  const GittinsIndex known = made_of(deterministic(), kNormalisedLatency);
  EXPECT_DOUBLE_EQ(known.index(0, 0.0, 3), 3.0 * 3.0);
  EXPECT_DOUBLE_EQ(known.index(0, 4.0, 3), 7.0 * 3.0);
  EXPECT_DOUBLE_EQ(known.index(0, 0.0, 20), 5.0 * 5.0);
}

TEST(GittinsIndex, InterpolatesQuantiles) {
  const GittinsIndex index = made_of(two_points(), kMeanLatency);
  EXPECT_DOUBLE_EQ(index.quantile(0.5), 1.0);
  EXPECT_DOUBLE_EQ(index.quantile(0.75), 9.5);
  EXPECT_DOUBLE_EQ(index.quantile(1.0), 10.0);
}

TEST(MeanInverseLength, IsThatOfTheLengths) {
  EXPECT_DOUBLE_EQ(mean_inverse_length(deterministic()), 1.0 / 5.0);
  EXPECT_DOUBLE_EQ(mean_inverse_length(two_points()), (1.0 + 1.0 / 10.0) / 2.0);
}

TEST(GittinsIndex, TakesAnotherWorth) {
  GittinsIndex index(kNormalisedLatency);
  index.rebuild(deterministic(), kMeanLatency);
  EXPECT_DOUBLE_EQ(index.index(0), 5.0);
}

}  // namespace
}  // namespace fastserve::sched
