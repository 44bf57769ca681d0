#include "kv/block_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "base/error.h"

namespace fastserve::kv {
namespace {

struct Counts {
  std::int32_t free, cached, used, in_transfer;
  bool operator==(const Counts&) const = default;
};

Counts counts(const BlockPool& pool) {
  pool.check_integrity();
  return {pool.num_free(), pool.num_cached(), pool.num_used(), pool.num_in_transfer()};
}

TEST(BlockPool, HandsOutEveryBlockOnceThenNone) {
  BlockPool pool(3);
  for (std::int32_t index = 0; index < 3; ++index) EXPECT_EQ(pool.try_allocate(), BlockId{index});
  EXPECT_EQ(pool.try_allocate(), std::nullopt);
  EXPECT_EQ(counts(pool), (Counts{0, 0, 3, 0}));
  EXPECT_EQ(BlockPool(0).try_allocate(), std::nullopt);
}

TEST(BlockPool, ReusesTheBlockThatBecameFreeLast) {
  BlockPool pool(3);
  const BlockId a = *pool.try_allocate(), b = *pool.try_allocate();
  pool.release(a);
  pool.release(b);
  EXPECT_EQ(pool.try_allocate(), b);
  EXPECT_EQ(pool.try_allocate(), a);
}

TEST(BlockPool, TheLastOfSeveralHoldersFreesABlock) {
  BlockPool pool(1);
  const BlockId block = *pool.try_allocate();
  pool.hold(block);
  pool.release(block);
  EXPECT_EQ(pool.state(block), BlockState::kUsed);
  pool.release(block);
  EXPECT_EQ(pool.state(block), BlockState::kFree);
  EXPECT_EQ(counts(pool), (Counts{1, 0, 0, 0}));
}

TEST(BlockPool, APinnedBlockIsNotFreedBeforeItsLastPinGoes) {
  BlockPool pool(1);
  const BlockId block = *pool.try_allocate();
  pool.pin(block);
  pool.pin(block);
  EXPECT_EQ(counts(pool), (Counts{0, 0, 0, 1}));
  pool.release(block);
  pool.unpin(block);
  EXPECT_EQ(pool.state(block), BlockState::kInTransfer);
  EXPECT_EQ(pool.try_allocate(), std::nullopt);
  pool.unpin(block);
  EXPECT_EQ(counts(pool), (Counts{1, 0, 0, 0}));
}

TEST(BlockPool, AHeldBlockIsUsedAgainAfterItsTransfer) {
  BlockPool pool(1);
  const BlockId block = *pool.try_allocate();
  pool.pin(block);
  pool.unpin(block);
  EXPECT_EQ(counts(pool), (Counts{0, 0, 1, 0}));
}

TEST(BlockPool, CachedBlocksAreFreeButNotAllocated) {
  BlockPool pool(2);
  const BlockId a = *pool.try_allocate(), b = *pool.try_allocate();
  pool.set_cached(a, true);
  pool.set_cached(b, true);
  pool.release(b);
  pool.release(a);
  EXPECT_EQ(counts(pool), (Counts{2, 2, 0, 0}));
  EXPECT_EQ(pool.try_allocate(), std::nullopt);
  EXPECT_EQ(pool.oldest_cached(), b);
  pool.hold(b);  // its content is wanted again
  EXPECT_EQ(counts(pool), (Counts{1, 1, 1, 0}));
  EXPECT_EQ(pool.oldest_cached(), a);
  pool.set_cached(a, false);
  EXPECT_EQ(pool.oldest_cached(), kNoBlock);
  EXPECT_EQ(pool.try_allocate(), a);
}

TEST(BlockPool, ATouchedBlockIsTheYoungestCachedOne) {
  BlockPool pool(2);
  const BlockId a = *pool.try_allocate(), b = *pool.try_allocate();
  for (const BlockId block : {a, b}) {
    pool.set_cached(block, true);
    pool.release(block);
  }
  pool.touch(a);
  EXPECT_EQ(pool.oldest_cached(), b);
  EXPECT_EQ(counts(pool), (Counts{2, 2, 0, 0}));
}

TEST(BlockPool, BrokenContractsThrowAndChangeNothing) {
  BlockPool pool(2);
  const BlockId block = *pool.try_allocate();
  pool.release(block);
  const Counts before = counts(pool);
  EXPECT_THROW(pool.release(block), InvalidArgumentError);  // double free
  EXPECT_THROW(pool.unpin(block), InvalidArgumentError);
  EXPECT_THROW(pool.hold(block), InvalidArgumentError);
  EXPECT_THROW(pool.pin(block), InvalidArgumentError);
  EXPECT_THROW(pool.touch(block), InvalidArgumentError);
  for (const BlockId foreign : {BlockId{-1}, BlockId{2}, BlockId{1 << 30}}) {
    EXPECT_THROW(pool.release(foreign), InvalidArgumentError);
    EXPECT_THROW(pool.hold(foreign), InvalidArgumentError);
    EXPECT_THROW(pool.pin(foreign), InvalidArgumentError);
    EXPECT_THROW(pool.unpin(foreign), InvalidArgumentError);
    EXPECT_THROW(pool.set_cached(foreign, true), InvalidArgumentError);
    EXPECT_THROW(pool.state(foreign), InvalidArgumentError);
  }
  EXPECT_EQ(counts(pool), before);
  EXPECT_THROW(BlockPool(-1), InvalidArgumentError);
}

TEST(BlockPool, RandomOperationsKeepTheBooks) {
  constexpr std::int32_t kNumBlocks = 13;
  BlockPool pool(kNumBlocks);
  std::vector<std::int32_t> holders(kNumBlocks), pins(kNumBlocks), cached(kNumBlocks);
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    const BlockId block{static_cast<std::int32_t>(random() % kNumBlocks)};
    const std::int32_t index = index_of(block);
    const bool free = holders[index] == 0 && pins[index] == 0;
    switch (random() % 6) {
      case 0:
        if (const auto taken = pool.try_allocate()) {
          const std::int32_t t = index_of(*taken);
          ASSERT_TRUE(holders[t] == 0 && pins[t] == 0 && !cached[t]);
          holders[t] = 1;
        }
        break;
      case 1:
        if (holders[index] > 0) pool.release(block), --holders[index];
        break;
      case 2:
        if (!free) pool.pin(block), ++pins[index];
        break;
      case 3:
        if (pins[index] > 0) pool.unpin(block), --pins[index];
        break;
      case 4:
        if (!free || cached[index]) pool.hold(block), ++holders[index];
        break;
      default: cached[index] = random() % 2; pool.set_cached(block, cached[index]);
    }
    pool.check_integrity();
    ASSERT_EQ(pool.num_holders(block), holders[index]);
    ASSERT_EQ(pool.num_pins(block), pins[index]);
    ASSERT_EQ(pool.num_free() + pool.num_used() + pool.num_in_transfer(), pool.num_total());
  }
}

}  // namespace
}  // namespace fastserve::kv
