#include "kv/prefix_cache.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "base/error.h"

namespace fastserve::kv {
namespace {

using Tokens = std::vector<std::int32_t>;

std::uint64_t constant_hash(std::uint64_t, std::span<const std::int32_t>) { return 42; }

class PrefixCacheUnderHash : public ::testing::TestWithParam<BlockHashFn> {
 protected:
  PrefixCache cache{4, 8, 8, GetParam()};
  const PrefixCache::Link root = PrefixCache::root(0);
  const Tokens first{1, 2, 3, 4}, second{5, 6, 7, 8};
};

INSTANTIATE_TEST_SUITE_P(All, PrefixCacheUnderHash, ::testing::Values(&chain_block_hash, &constant_hash),
                         [](const auto& hash) { return hash.param == &constant_hash ? "Constant" : "Shipped"; });

TEST_P(PrefixCacheUnderHash, FindsABlockOnlyByTokensParentAndSalt) {
  const auto a = cache.find_or_insert(root, first, BlockId{0}).link;
  const auto b = cache.find_or_insert(a, second, BlockId{1}).link;
  EXPECT_EQ(cache.block(*cache.find(root, first), Tier::kDevice), BlockId{0});
  EXPECT_EQ(cache.block(*cache.find(a, second), Tier::kDevice), BlockId{1});
  EXPECT_FALSE(cache.find(root, second));                 // other tokens
  EXPECT_FALSE(cache.find(b, second));                    // other parent
  EXPECT_FALSE(cache.find(PrefixCache::root(1), first));  // other salt
  EXPECT_FALSE(cache.find(PrefixCache::root(b.identity), first));
  cache.check_integrity();
}

TEST_P(PrefixCacheUnderHash, KnownContentIsNotInsertedTwice) {
  const auto a = cache.find_or_insert(root, first, BlockId{0});
  const auto again = cache.find_or_insert(root, first, BlockId{5});
  EXPECT_TRUE(a.inserted);
  EXPECT_FALSE(again.inserted);
  EXPECT_EQ(again.link.identity, a.link.identity);
  EXPECT_FALSE(cache.contains(Tier::kDevice, BlockId{5}));
  EXPECT_EQ(cache.num_entries(), 1);
}

TEST_P(PrefixCacheUnderHash, AnEntryLivesAsLongAsItNamesABlock) {
  const auto a = cache.find_or_insert(root, first, BlockId{0}).link;
  cache.attach_copy(Tier::kDevice, BlockId{0}, BlockId{3});
  EXPECT_TRUE(cache.same_entry(Tier::kDevice, BlockId{0}, BlockId{3}));
  cache.detach(Tier::kDevice, BlockId{0});
  EXPECT_TRUE(cache.alive(a));
  EXPECT_EQ(cache.block(a, Tier::kDevice), kNoBlock);
  EXPECT_EQ(cache.block(a, Tier::kHost), BlockId{3});
  cache.attach_copy(Tier::kHost, BlockId{3}, BlockId{6});
  EXPECT_EQ(cache.block(a, Tier::kDevice), BlockId{6});
  cache.detach(Tier::kHost, BlockId{3});
  cache.detach(Tier::kDevice, BlockId{6});
  cache.detach(Tier::kDevice, BlockId{6});  // no-op
  EXPECT_FALSE(cache.alive(a));
  EXPECT_FALSE(cache.find(root, first));
  EXPECT_EQ(cache.num_entries(), 0);
  cache.check_integrity();
}

TEST_P(PrefixCacheUnderHash, ChildrenOfAVanishedEntryAreNotFoundUnderItsSuccessor) {
  const auto a = cache.find_or_insert(root, first, BlockId{0}).link;
  const auto b = cache.find_or_insert(a, second, BlockId{1}).link;
  cache.detach(Tier::kDevice, BlockId{0});
  const auto successor = cache.find_or_insert(root, first, BlockId{2}).link;
  EXPECT_EQ(successor.entry, a.entry);  // the slot is reused, the identity is not
  EXPECT_FALSE(cache.find(successor, second));
  EXPECT_FALSE(cache.alive(a));
  EXPECT_TRUE(cache.alive(b));
  const auto moved = cache.find_or_insert(successor, second, BlockId{1});  // block 1 still had the lost entry
  EXPECT_TRUE(moved.inserted);
  EXPECT_FALSE(cache.alive(b));
  EXPECT_EQ(cache.block(*cache.find(successor, second), Tier::kDevice), BlockId{1});
  EXPECT_EQ(cache.num_entries(), 2);
  cache.check_integrity();
}

TEST_P(PrefixCacheUnderHash, ManyBlocksComeAndGo) {
  for (int round = 0; round < 50; ++round) {
    PrefixCache::Link parent = PrefixCache::root(round % 3);
    for (std::int32_t block = 0; block < 8; ++block) {
      const Tokens tokens(4, round % 5 * 8 + block);
      parent = cache.find_or_insert(parent, tokens, BlockId{block}).link;
      cache.attach_copy(Tier::kDevice, BlockId{block}, BlockId{7 - block});
    }
    EXPECT_EQ(cache.num_entries(), 8);
    cache.check_integrity();
    for (std::int32_t block = 0; block < 8; ++block) cache.detach(Tier::kDevice, BlockId{(block + round) % 8});
    for (std::int32_t block = 0; block < 8; ++block) cache.detach(Tier::kHost, BlockId{(block * 3) % 8});
    EXPECT_EQ(cache.num_entries(), 0);
    cache.check_integrity();
  }
}

TEST(PrefixCache, OnlyFullBlocksAreCached) {
  PrefixCache cache(4, 2, 0);
  EXPECT_THROW(cache.find_or_insert(PrefixCache::root(0), Tokens{1, 2, 3}, BlockId{0}), InvalidArgumentError);
  EXPECT_THROW(PrefixCache(0, 2, 0), InvalidArgumentError);
}

TEST(ChainBlockHash, SmallChangesGiveOtherHashes) {
  std::set<std::uint64_t> hashes, low_bits;
  Tokens tokens(16);
  std::size_t count = 0;
  for (int position = 0; position < 16; ++position) {
    for (int bit = 0; bit < 31; ++bit) {
      tokens[position] ^= 1 << bit;
      const std::uint64_t hash = chain_block_hash(7, tokens);
      hashes.insert(hash);
      low_bits.insert(hash & 0xFFFF);
      tokens[position] ^= 1 << bit;
      ++count;
    }
  }
  for (std::uint64_t parent = 0; parent < 500; ++parent, ++count) {
    const std::uint64_t hash = chain_block_hash(parent, tokens);
    hashes.insert(hash);
    low_bits.insert(hash & 0xFFFF);
  }
  EXPECT_EQ(hashes.size(), count);
  EXPECT_GT(low_bits.size(), count * 97 / 100);  // buckets take low bits
  EXPECT_NE(chain_block_hash(0, Tokens{1}), chain_block_hash(0, Tokens{1, 0}));
}

}  // namespace
}  // namespace fastserve::kv
