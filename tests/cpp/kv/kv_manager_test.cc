#include "kv/kv_manager.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "kv_fixture.h"

namespace fastserve::kv {
namespace {

TEST(KvManager, ASequenceTakesBlocksAsItGrowsAndReturnsThemAtItsEnd) {
  Pools pools(4, 0, /*caching=*/false);
  const Tokens tokens = sequence_of(12);
  EXPECT_EQ(pools.kv.begin(kA, tokens, 0), 0);
  EXPECT_EQ(pools.kv.residency(kA), Residency::kNone);
  EXPECT_EQ(pools.kv.num_blocks_to_reserve(kA, 5), 2);
  EXPECT_TRUE(pools.kv.try_reserve(kA, 5));
  EXPECT_EQ(pools.kv.residency(kA), Residency::kDevice);
  EXPECT_EQ(pools.blocks(kA), (std::vector{BlockId{0}, BlockId{1}}));
  EXPECT_TRUE(pools.kv.try_reserve(kA, 8));  // fits
  EXPECT_EQ(pools.device(), (Counts{2, 2, 0, 0}));
  EXPECT_EQ(pools.kv.num_blocks_to_reserve(kA, 9), 1);
  EXPECT_EQ(pools.kv.num_blocks_to_reserve(kA, 3), 0);
  pools.kv.commit_computed(kA, tokens, 7);
  EXPECT_EQ(pools.kv.num_computed(kA), 7);
  EXPECT_EQ(pools.kv.num_device_blocks(kA), 2);
  pools.kv.end(kA);
  EXPECT_FALSE(pools.kv.contains(kA));
  EXPECT_EQ(pools.device(), (Counts{4, 0, 0, 0}));
}

TEST(KvManager, AReservationThatDoesNotFitChangesNothing) {
  Pools pools(2, 0);
  pools.kv.begin(kA, sequence_of(20), 0);
  EXPECT_FALSE(pools.kv.try_reserve(kA, 9));
  EXPECT_FALSE(pools.kv.try_reserve(kA, std::int64_t{1} << 40));
  EXPECT_EQ(pools.kv.residency(kA), Residency::kNone);
  EXPECT_EQ(pools.device(), (Counts{2, 0, 0, 0}));
  EXPECT_TRUE(pools.kv.try_reserve(kA, 0));
  EXPECT_EQ(pools.kv.residency(kA), Residency::kNone);
}

TEST(KvManager, FullBlocksAreSharedByLaterSequencesWithTheSamePrefix) {
  Pools pools(8, 0);
  pools.run(kA, sequence_of(10));                          // blocks 0 and 1 are full
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(8), 0), 4);  // one token must remain
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9), 0), 8);
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9), 1), 0);  // other salt
  EXPECT_EQ(pools.kv.begin(kB, sequence_of(20), 0), 8);
  EXPECT_EQ(pools.kv.residency(kB), Residency::kDevice);
  EXPECT_EQ(pools.kv.num_computed(kB), 8);
  EXPECT_EQ(pools.blocks(kB), (std::vector{BlockId{0}, BlockId{1}}));
  EXPECT_EQ(pools.device(), (Counts{5, 3, 0, 0}));
  EXPECT_EQ(pools.kv.num_releasable_blocks(kA), 1);  // its tail
  EXPECT_EQ(pools.kv.num_releasable_blocks(kB), 0);
  pools.kv.end(kA);
  EXPECT_EQ(pools.kv.num_releasable_blocks(kB), 2);
  EXPECT_EQ(pools.device(), (Counts{6, 2, 0, 0}));
  pools.kv.end(kB);
  EXPECT_EQ(pools.device(), (Counts{8, 0, 0, 2}));
}

TEST(KvManager, OutputTokensFeedTheCacheToo) {
  Pools pools(8, 0);
  Tokens tokens = sequence_of(3);
  pools.run(kA, tokens);
  for (std::int32_t token = 3; token < 9; ++token) {
    tokens.push_back(token);
    ASSERT_TRUE(pools.kv.try_reserve(kA, std::ssize(tokens)));
    pools.kv.commit_computed(kA, tokens, std::ssize(tokens));
    EXPECT_EQ(pools.kv.probe_prefix(sequence_of(20), 0), (token + 1) / 4 * 4);
  }
}

TEST(KvManager, WithCachingOffNothingIsShared) {
  Pools pools(8, 8, /*caching=*/false);
  pools.run(kA, sequence_of(9));
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9), 0), 0);
  EXPECT_EQ(pools.kv.begin(kB, sequence_of(9), 0), 0);
  pools.kv.end(kA);
  EXPECT_EQ(pools.device(), (Counts{8, 0, 0, 0}));
}

TEST(KvManager, CachedBlocksGoLeastRecentlyUsedFirstAndFromTheEndOfAPrefix) {
  Pools pools(4, 0);
  pools.run(kA, sequence_of(8));
  pools.kv.end(kA);
  pools.run(kB, sequence_of(8, 100));
  pools.kv.end(kB);
  EXPECT_EQ(pools.device(), (Counts{4, 0, 0, 4}));
  pools.kv.begin(kC, sequence_of(4, 200), 0);
  EXPECT_TRUE(pools.kv.try_reserve(kC, 4));
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9), 0), 4);
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9, 100), 0), 8);
  EXPECT_TRUE(pools.kv.try_reserve(kC, 8));
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9), 0), 0);
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9, 100), 0), 8);
}

TEST(KvManager, AHitMakesAPrefixYoungAgain) {
  Pools pools(4, 0);
  for (const auto& [seq, first] : {std::pair{kA, 0}, std::pair{kB, 100}}) {
    pools.run(seq, sequence_of(8, first));
    pools.kv.end(seq);
  }
  EXPECT_EQ(pools.kv.begin(kA, sequence_of(9), 0), 8);
  pools.kv.end(kA);
  pools.kv.begin(kC, sequence_of(4, 200), 0);
  EXPECT_TRUE(pools.kv.try_reserve(kC, 8));
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9), 0), 8);
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9, 100), 0), 0);
}

TEST(KvManager, ADuplicateOfAKnownBlockContinuesTheKnownChain) {
  Pools pools(8, 0);
  pools.kv.begin(kA, sequence_of(9), 0);
  pools.kv.begin(kB, sequence_of(13), 0);  // before A computed anything
  for (const SeqId seq : {kA, kB}) {
    ASSERT_TRUE(pools.kv.try_reserve(seq, 9));
    pools.kv.commit_computed(seq, sequence_of(9), 9);
  }
  EXPECT_EQ(pools.blocks(kB).front(), BlockId{3});  // the table never changes under a running sequence
  ASSERT_TRUE(pools.kv.try_reserve(kB, 13));
  pools.kv.commit_computed(kB, sequence_of(13), 13);
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(20), 0), 12);
  EXPECT_EQ(pools.device(), (Counts{1, 7, 0, 0}));
}

TEST(KvManager, ASequenceWhoseChainWasEvictedRegistersItsBlocksAgain) {
  Pools pools(6, 0);
  pools.kv.begin(kA, sequence_of(8), 0);
  pools.kv.begin(kB, sequence_of(20), 0);
  for (const SeqId seq : {kA, kB}) {
    ASSERT_TRUE(pools.kv.try_reserve(seq, 8));
    pools.kv.commit_computed(seq, sequence_of(8), 8);
  }
  pools.kv.end(kA);  // the blocks that B's chain goes through
  pools.kv.begin(kC, sequence_of(16, 100), 0);
  ASSERT_TRUE(pools.kv.try_reserve(kC, 16));
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(20), 0), 0);
  pools.kv.end(kC);
  ASSERT_TRUE(pools.kv.try_reserve(kB, 12));
  pools.kv.commit_computed(kB, sequence_of(12), 12);
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(20), 0), 12);
  pools.device();
}

TEST(KvManager, DropGivesUpTheKvButNotTheSequence) {
  Pools pools(4, 4);
  pools.run(kA, sequence_of(9));
  pools.kv.drop(kA);
  EXPECT_EQ(pools.kv.residency(kA), Residency::kNone);
  EXPECT_EQ(pools.kv.num_computed(kA), 0);
  EXPECT_EQ(pools.device(), (Counts{4, 0, 0, 2}));
  EXPECT_TRUE(pools.kv.try_reserve(kA, 9));
  pools.kv.commit_computed(kA, sequence_of(9), 9);
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9), 0), 8);
  pools.kv.drop(kA);
  pools.kv.drop(kA);  // of nothing: no-op
  pools.kv.end(kA);
}

TEST(KvManager, ClearForgetsOnlyPrefixesThatNoSequenceHolds) {
  Pools pools(8, 8);
  pools.run(kA, sequence_of(8));
  pools.run(kB, sequence_of(8, 100));
  pools.kv.end(kA);
  pools.kv.clear_prefix_cache();
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9), 0), 0);
  EXPECT_EQ(pools.kv.probe_prefix(sequence_of(9, 100), 0), 8);
  EXPECT_EQ(pools.device(), (Counts{6, 2, 0, 0}));
}

TEST(KvManager, BrokenContractsThrowAndChangeNothing) {
  using E = InvalidArgumentError;
  Pools pools(4, 4);
  EXPECT_THROW(Pools(0, 4), E);
  EXPECT_THROW(Pools(4, -1), E);
  EXPECT_THROW(KvManager({.block_size = 0, .num_device_blocks = 1}), E);
  pools.run(kA, sequence_of(6));
  pools.kv.begin(kB, sequence_of(5, 50), 0);
  const Counts device = pools.device(), host = pools.host();
  EXPECT_THROW(pools.kv.begin(kA, sequence_of(6), 0), E);
  EXPECT_THROW(pools.kv.begin(kC, {}, 0), E);
  EXPECT_THROW(pools.kv.probe_prefix({}, 0), E);
  for (const SeqId seq : {kC, SeqId{-1}}) {
    EXPECT_THROW(pools.kv.try_reserve(seq, 1), E);
    EXPECT_THROW(pools.kv.commit_computed(seq, sequence_of(1), 1), E);
    EXPECT_THROW(pools.kv.device_blocks(seq), E);
    EXPECT_THROW(pools.kv.drop(seq), E);
    EXPECT_THROW(pools.kv.end(seq), E);
    EXPECT_THROW(pools.kv.residency(seq), E);
    EXPECT_THROW(pools.kv.try_offload(seq), E);
  }
  EXPECT_THROW(pools.kv.commit_computed(kA, sequence_of(9), 5), E);  // shrinks
  EXPECT_THROW(pools.kv.commit_computed(kA, sequence_of(7), 8), E);  // more than the tokens
  EXPECT_THROW(pools.kv.commit_computed(kA, sequence_of(9), 9), E);  // more than reserved
  EXPECT_THROW(pools.kv.commit_computed(kB, sequence_of(5), 0), E);  // kNone
  EXPECT_THROW(pools.kv.try_reserve(kA, -1), E);
  EXPECT_THROW(pools.kv.num_blocks_to_reserve(kA, -1), E);
  EXPECT_THROW(pools.kv.device_blocks(kB), E);
  EXPECT_THROW(pools.kv.try_offload(kB), E);
  EXPECT_THROW(pools.kv.try_mirror(kB, 1), E);
  EXPECT_THROW(pools.kv.try_mirror(kA, 0), E);
  EXPECT_THROW(pools.kv.try_upload(kA), E);
  EXPECT_THROW(pools.kv.complete(TransferId{0}, true), E);
  EXPECT_THROW(pools.kv.complete(TransferId{77}, true), E);
  EXPECT_EQ(pools.device(), device);
  EXPECT_EQ(pools.host(), host);
  EXPECT_EQ(pools.kv.num_computed(kA), 6);
}

}  // namespace
}  // namespace fastserve::kv
