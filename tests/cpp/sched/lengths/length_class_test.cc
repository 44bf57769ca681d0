#include "sched/lengths/length_class.h"

#include <gtest/gtest.h>

#include <limits>

namespace fastserve::sched {
namespace {

TEST(LengthClass, IsLearnedAfterTheLeastNumberOfEnds) {
  LengthClass lengths(100.0, 3);
  lengths.ended(1, 5);
  lengths.censored(1, 9);
  lengths.ended(1, 5);
  EXPECT_FALSE(lengths.learned());
  lengths.ended(1, 5);
  EXPECT_TRUE(lengths.learned());
  EXPECT_EQ(lengths.num_observations(), 3);
  EXPECT_NEAR(lengths.index().quantile(0.5), 5.0, 1.0);
}

TEST(LengthClass, FollowsANewDistributionOnceItsIndexIsRebuilt) {
  LengthClass lengths(100.0, 1);
  lengths.ended(1, 5);
  const double before = lengths.index().index(0);
  for (int i = 1; i < LengthClass::kRebuildInterval; ++i) lengths.ended(1, 1000);
  EXPECT_EQ(lengths.index().index(0), before);
  lengths.ended(1, 1000);
  EXPECT_GT(lengths.index().index(0), before);
}

TEST(LengthClass, TellsPromptsOfOneKindFromOthersByTheirOwnEnds) {
  LengthClass lengths(1e9, 1);
  for (int i = 0; i < 256; ++i) {
    lengths.ended(20, 8);
    lengths.ended(2000, 512);
  }
  EXPECT_NEAR(lengths.index(20).quantile(0.5), 8.0, 1.0);
  EXPECT_NEAR(lengths.index(2000).quantile(0.5), 512.0, 64.0);
  EXPECT_NEAR(lengths.index().survival(LengthBins::of(100)), 0.5, 0.02);
}

TEST(LengthClass, TakesThoseOfAllPromptsForAKindThatItHasNotSeen) {
  LengthClass lengths(1e9, 1);
  for (int i = 0; i < LengthClass::kRebuildInterval + 1; ++i) lengths.ended(20, 8);
  EXPECT_DOUBLE_EQ(lengths.index(2000).index(0), lengths.index().index(0));
  // As many ends of its own as those of all count for: half its own, half theirs.
  const auto own = static_cast<int>(LengthClass::kPooledWeight);
  for (int i = 0; i < 512; ++i) lengths.ended(20, 8);
  for (int i = 0; i < own; ++i) lengths.ended(2000, 512);
  EXPECT_NEAR(lengths.index(2000).survival(LengthBins::of(100)), 0.5, 0.05);
}

TEST(LengthClass, KeepsTheLowerBoundsOfAKindToItself) {
  LengthClass lengths(1e9, 1);
  lengths.enters(2000, 0);
  lengths.moves(2000, 0, LengthBins::of(100));
  for (int i = 0; i < LengthClass::kRebuildInterval + 1; ++i) lengths.ended(20, 8);
  const double with_live = lengths.index(2000).survival(LengthBins::of(50));
  EXPECT_GT(with_live, lengths.index(20).survival(LengthBins::of(50)));
  lengths.leaves(2000, LengthBins::of(100));
  for (int i = 0; i < LengthClass::kRebuildInterval; ++i) lengths.ended(20, 8);
  EXPECT_LT(lengths.index(2000).survival(LengthBins::of(50)), with_live);
  EXPECT_EQ(lengths.num_live(), 0);
}

TEST(LengthClass, CountsAFifthOfADelayToAllForTheMean) {
  LengthClass lengths(1e9, 1);
  for (int i = 0; i < 4096; ++i) lengths.ended(20, 101);
  // Worth (1 + 1/4) / x for a length of x that is certain.
  EXPECT_NEAR(lengths.index().index(0), 0.8 * 101.0 * 101.0, 0.1 * 101.0 * 101.0 * 0.8);
  EXPECT_NEAR(lengths.index(20).index(0), lengths.index().index(0), 0.02 * lengths.index().index(0));
}

TEST(LengthClass, LearnsTheLimitsWhereAllEndAtTheirs) {
  LengthClass lengths(1e9, 1);
  for (int i = 0; i < 64; ++i) lengths.limited(20, 100);
  EXPECT_TRUE(lengths.learned());
  EXPECT_EQ(lengths.num_observations(), 64);
  EXPECT_GT(lengths.index(20).survival(LengthBins::of(100)), 0.9);  // each would have gone on
  EXPECT_LT(lengths.index(20).index(0, 0.0, 50), lengths.index(20).index(0, 0.0, 100));
}

TEST(LengthClass, ForgetsEndsWhereLimitsTakeTheirPlace) {
  LengthClass lengths(16.0, 1);
  for (int i = 0; i < 64; ++i) lengths.ended(20, 8);
  for (int i = 0; i < 160; ++i) lengths.limited(20, 100);
  EXPECT_GT(lengths.index(20).survival(LengthBins::of(50)), 0.9);
}

TEST(LengthClass, TakesHangingUpForAnEndOnlyWhereNothingElseEnds) {
  LengthClass lengths(1e9, 1);
  lengths.aborted(20, 0);  // gave up waiting
  EXPECT_FALSE(lengths.learned());
  for (int i = 0; i < 64; ++i) lengths.aborted(20, 8);
  EXPECT_TRUE(lengths.learned());
  EXPECT_NEAR(lengths.index(20).quantile(0.5), 8.0, 1.0);
  lengths.ended(20, 100);
  const std::int64_t seen = lengths.num_observations();
  lengths.aborted(20, 8);
  EXPECT_EQ(lengths.num_observations(), seen);
}

TEST(LengthClass, StartsFromWhatIsKnownOfAllRequestsByPrompt) {
  LengthClass requests(1e9, 1);
  LengthClass usual(1, requests), fresh(2, requests);
  EXPECT_FALSE(fresh.learned());
  for (int i = 0; i < 256; ++i) {
    usual.ended(20, 8);
    usual.ended(2000, 512);
  }
  EXPECT_TRUE(fresh.learned());
  EXPECT_DOUBLE_EQ(fresh.index(20).index(0), requests.index(20).index(0));
  EXPECT_DOUBLE_EQ(fresh.index(2000).index(0), requests.index(2000).index(0));
  EXPECT_NEAR(fresh.index(20).index(0), usual.index(20).index(0), 0.1 * usual.index(20).index(0));
  fresh.ended(20, 512);  // one end is no reason to jump
  EXPECT_NEAR(fresh.index(20).quantile(0.5), 8.0, 1.0);
  for (int i = 0; i < 512; ++i) fresh.ended(20, 512);
  EXPECT_NEAR(fresh.index(20).quantile(0.5), 512.0, 64.0);
  EXPECT_NEAR(usual.index(20).quantile(0.5), 8.0, 1.0);
}

TEST(PromptKinds, AreHalfPowersOfTwo) {
  EXPECT_EQ(PromptKinds::of(1), 0u);
  EXPECT_EQ(PromptKinds::of(2), 2u);
  EXPECT_EQ(PromptKinds::of(3), 3u);
  EXPECT_EQ(PromptKinds::of(1024), 20u);
  EXPECT_EQ(PromptKinds::of(1448), 20u);  // 1024 times the root of 2 is 1448.2
  EXPECT_EQ(PromptKinds::of(1449), 21u);
  EXPECT_EQ(PromptKinds::of(2047), 21u);
  EXPECT_EQ(PromptKinds::of(std::numeric_limits<std::int32_t>::max()), PromptKinds::kNum - 1);
}

TEST(LengthClasses, KeepOneClassPerKey) {
  LengthClasses classes(100.0, 1);
  LengthClass& a = classes.of(3);
  EXPECT_EQ(&classes.of(3), &a);
  EXPECT_NE(&classes.of(2), &a);
  ASSERT_EQ(classes.all().size(), 2u);
  EXPECT_EQ(classes.all()[0]->key(), 2u);
}

TEST(LengthClasses, ForgetTheOneAskedForLongestAgoThatHasNoLiveRequests) {
  LengthClasses classes(100.0, 1);
  classes.of(0).enters(1, 0);
  for (std::uint64_t key = 1; key < LengthClasses::kMost; ++key) classes.of(key);
  classes.of(1);
  classes.of(1'000);
  const auto all = classes.all();
  ASSERT_EQ(all.size(), LengthClasses::kMost);
  EXPECT_EQ(all[0]->key(), 0u);
  EXPECT_EQ(all[1]->key(), 1u);
  EXPECT_EQ(all[2]->key(), 3u);  // 2 made way
}

TEST(LengthClasses, ShareOneClassWhenAllOthersHaveLiveRequests) {
  LengthClasses classes(100.0, 1);
  for (std::uint64_t key = 0; key < LengthClasses::kMost; ++key) classes.of(key).enters(1, 0);
  LengthClass& shared = classes.of(1'000);
  EXPECT_EQ(&classes.of(2'000), &shared);
  EXPECT_EQ(classes.all().size(), LengthClasses::kMost + 1);
}

}  // namespace
}  // namespace fastserve::sched
