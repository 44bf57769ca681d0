#include "offload/copy/copy_runs.h"

#include <gtest/gtest.h>

namespace fastserve::offload {
namespace {

using Ids = std::vector<std::int32_t>;
using Runs = std::vector<CopyRun>;

TEST(CopyRuns, BlocksAdjacentOnBothSidesShareOneCopy) {
  EXPECT_EQ(coalesce(Ids{4, 5, 6}, Ids{0, 1, 2}), (Runs{{4, 0, 3}}));
}

TEST(CopyRuns, AGapOnEitherSideStartsANewCopy) {
  EXPECT_EQ(coalesce(Ids{4, 5, 7}, Ids{0, 1, 2}), (Runs{{4, 0, 2}, {7, 2, 1}}));
  EXPECT_EQ(coalesce(Ids{4, 5, 6}, Ids{0, 2, 3}), (Runs{{4, 0, 1}, {5, 2, 2}}));
}

TEST(CopyRuns, DescendingAndRepeatedSourcesAreNotJoined) {
  EXPECT_EQ(coalesce(Ids{3, 2}, Ids{1, 0}), (Runs{{3, 1, 1}, {2, 0, 1}}));
  EXPECT_EQ(coalesce(Ids{3, 3}, Ids{0, 1}), (Runs{{3, 0, 1}, {3, 1, 1}}));
}

TEST(CopyRuns, NoBlocksNeedNoCopy) { EXPECT_TRUE(coalesce(Ids{}, Ids{}).empty()); }

}  // namespace
}  // namespace fastserve::offload
