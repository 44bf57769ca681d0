#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <vector>

#include "kv/kv_manager.h"

namespace fastserve::kv {

using Tokens = std::vector<std::int32_t>;

/// `count` tokens, first, first + 1, ...
inline Tokens sequence_of(std::int32_t count, std::int32_t first = 0) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

struct Counts {
  std::int32_t free, used, in_transfer, cached;
  bool operator==(const Counts&) const = default;
  friend std::ostream& operator<<(std::ostream& out, const Counts& c) {
    return out << "free " << c.free << " used " << c.used << " in_transfer " << c.in_transfer << " cached " << c.cached;
  }
};

/// A manager with blocks of 4 tokens whose integrity is checked whenever its counts are asked for.
class Pools {
 public:
  Pools(std::int32_t num_device_blocks, std::int32_t num_host_blocks, bool caching = true)
      : kv({.block_size = 4,
            .num_device_blocks = num_device_blocks,
            .num_host_blocks = num_host_blocks,
            .enable_prefix_caching = caching}) {}

  /// Begin and compute all of `tokens`; returns the cached tokens.
  std::int64_t run(SeqId seq, const Tokens& tokens, std::uint64_t salt = 0) {
    const std::int64_t cached = kv.begin(seq, tokens, salt);
    EXPECT_TRUE(kv.try_reserve(seq, std::ssize(tokens)));
    kv.commit_computed(seq, tokens, std::ssize(tokens));
    return cached;
  }

  /// Offload to the end.
  void offload(SeqId seq) {
    const auto transfer = kv.try_offload(seq);
    ASSERT_TRUE(transfer);
    if (!transfer->source.empty()) kv.complete(transfer->id, true);
    ASSERT_EQ(kv.residency(seq), Residency::kHost);
  }

  /// Upload to the end.
  void upload(SeqId seq) {
    const auto transfer = kv.try_upload(seq);
    ASSERT_TRUE(transfer);
    if (!transfer->source.empty()) kv.complete(transfer->id, true);
    ASSERT_EQ(kv.residency(seq), Residency::kDevice);
  }

  Counts device() const { return counts(Tier::kDevice); }
  Counts host() const { return counts(Tier::kHost); }

  std::vector<BlockId> blocks(SeqId seq) const {
    const auto blocks = kv.device_blocks(seq);
    return {blocks.begin(), blocks.end()};
  }

  KvManager kv;

 private:
  Counts counts(Tier tier) const {
    kv.check_integrity();
    const TierUsage usage = kv.usage(tier);
    EXPECT_EQ(usage.free + usage.used + usage.in_transfer, usage.total);
    EXPECT_EQ(usage.free, kv.num_free(tier));
    return {usage.free, usage.used, usage.in_transfer, usage.cached};
  }
};

inline constexpr SeqId kA{1}, kB{2}, kC{3};

}  // namespace fastserve::kv
