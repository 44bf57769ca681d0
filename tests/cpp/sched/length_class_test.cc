#include "sched/length_class.h"

#include <gtest/gtest.h>

namespace fastserve::sched {
namespace {

TEST(LengthClass, IsLearnedAfterTheLeastNumberOfEnds) {
  LengthClass lengths(7, 100.0, 3);
  lengths.ended(5);
  lengths.censored(9);
  lengths.ended(5);
  EXPECT_FALSE(lengths.learned());
  lengths.ended(5);
  EXPECT_TRUE(lengths.learned());
  EXPECT_EQ(lengths.num_observations(), 3);
  EXPECT_NEAR(lengths.index().quantile(0.5), 5.0, 1.0);
}

TEST(LengthClass, FollowsANewDistributionOnceItsIndexIsRebuilt) {
  LengthClass lengths(7, 100.0, 1);
  lengths.ended(5);
  const double before = lengths.index().index(0);
  for (int i = 1; i < LengthClass::kRebuildInterval; ++i) lengths.ended(1000);
  EXPECT_EQ(lengths.index().index(0), before);
  lengths.ended(1000);
  EXPECT_GT(lengths.index().index(0), before);
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
  classes.of(0).enters(0);
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
  for (std::uint64_t key = 0; key < LengthClasses::kMost; ++key) classes.of(key).enters(0);
  LengthClass& shared = classes.of(1'000);
  EXPECT_EQ(&classes.of(2'000), &shared);
  EXPECT_EQ(classes.all().size(), LengthClasses::kMost + 1);
}

}  // namespace
}  // namespace fastserve::sched
