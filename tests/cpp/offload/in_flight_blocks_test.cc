#include "offload/in_flight_blocks.h"

#include <gtest/gtest.h>

#include "arenas.h"
#include "base/error.h"

namespace fastserve::offload {
namespace {

class InFlightBlocksTest : public testing::Test {
 protected:
  InFlightBlocks blocks{4, 6};  // device, host
};

TEST_F(InFlightBlocksTest, IdsAreCheckedAgainstTheArenaTheyBelongTo) {
  blocks.require_valid(offload_of({3}, {5}));
  EXPECT_THROW(blocks.require_valid(offload_of({4}, {5})), InvalidArgumentError);
  EXPECT_THROW(blocks.require_valid(offload_of({3}, {6})), InvalidArgumentError);
  EXPECT_THROW(blocks.require_valid(upload_of({5}, {4})), InvalidArgumentError);
  EXPECT_THROW(blocks.require_valid(upload_of({-1}, {0})), InvalidArgumentError);
  EXPECT_THROW(blocks.require_valid(upload_of({1, 2}, {0})), InvalidArgumentError);
}

TEST_F(InFlightBlocksTest, ATargetGivenTwiceIsRefusedAndNothingIsTaken) {
  EXPECT_THROW(blocks.acquire(offload_of({0, 1, 2}, {3, 4, 3})), InvalidArgumentError);
  EXPECT_EQ(blocks, blocks.empty_copy());
}

TEST_F(InFlightBlocksTest, AWriterExcludesReadersAndWriters) {
  const Ids device{0}, host{3};
  blocks.acquire(offload_of(device, host));
  EXPECT_THROW(blocks.acquire(upload_of({3}, {1})), InvalidArgumentError);        // reads what is being written
  EXPECT_THROW(blocks.acquire(offload_of({1}, {3})), InvalidArgumentError);       // writes it too
  EXPECT_THROW(blocks.acquire(upload_of({4, 5}, {1, 0})), InvalidArgumentError);  // writes what is being read
  blocks.release(offload_of(device, host));
  EXPECT_EQ(blocks, blocks.empty_copy());
  blocks.acquire(upload_of({3}, {0}));
}

TEST_F(InFlightBlocksTest, ManyReadersShareABlock) {
  blocks.acquire(offload_of({0, 0}, {1, 2}));
  blocks.acquire(offload_of({0}, {3}));
  blocks.release(offload_of({0}, {3}));
  EXPECT_THROW(blocks.acquire(upload_of({4}, {0})), InvalidArgumentError);  // two reads are left
  blocks.release(offload_of({0, 0}, {1, 2}));
  blocks.acquire(upload_of({4}, {0}));
}

TEST(InFlightBlocks, ArenasWithoutBlocksAreRefused) { EXPECT_THROW(InFlightBlocks(0, 1), InvalidArgumentError); }

}  // namespace
}  // namespace fastserve::offload
