#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kv/block_pool.h"
#include "kv/kv_manager.h"
#include "kv/per_tier.h"
#include "kv/prefix_cache.h"

namespace fastserve::kv {

/// The blocks of both tiers and what is known of their contents: which two blocks hold the same bytes (twins: one on
/// each tier, made by a copy), and which hold a known prefix (PrefixCache).
///
/// A free block stays cached while a request could still use its content: it is a prefix, or the twin of a block that
/// is in use. So the mirrors of a sequence on the device, and what an offload left behind there, count as free and go,
/// least recently used first, when the space is wanted. An entry of the prefix cache names both of two twins or
/// neither.
class BlockStore {
 public:
  explicit BlockStore(const KvConfig& config);

  std::int32_t num_free(Tier tier) const { return pools_[tier].num_free(); }
  TierUsage usage(Tier tier) const;
  const BlockPool& pool(Tier tier) const { return pools_[tier]; }
  const PrefixCache& prefixes() const { return prefixes_; }

  // --- holders and copies under way ---

  /// Take a free block, with one holder; the least recently used cached content goes if need be. Needs num_free > 0.
  BlockId allocate(Tier tier);

  /// As allocate, for a copy made on speculation: no mirror of a block in use goes for it (else mirrors would push each
  /// other out forever). nullopt when there is nothing else, as far as it looks.
  std::optional<BlockId> try_allocate_spare_host();

  void hold(Tier tier, BlockId block) { pools_[tier].hold(block); }
  void release(Tier tier, BlockId block);
  void pin(Tier tier, BlockId block) { pools_[tier].pin(block); }
  void unpin(Tier tier, BlockId block);
  bool is_free(Tier tier, BlockId block) const { return pools_[tier].is_free(block); }

  // --- twins ---

  /// Block on the other tier with the same bytes, kNoBlock when there is none.
  BlockId twin(Tier tier, BlockId block) const { return twins_[tier][index_of(block)]; }

  /// A copy between the two is complete; neither has a twin.
  void join(BlockId device, BlockId host);

  /// The device block is about to differ from its host copy, if it has one.
  void forget_copy(BlockId device) {
    if (twin(Tier::kDevice, device) != kNoBlock) separate(Tier::kDevice, device);
  }

  // --- prefixes ---

  /// Make the full device block findable as `tokens` after `parent`, unless the same prefix is known already. Returns
  /// its place in the chain.
  PrefixCache::Link register_prefix(const PrefixCache::Link& parent, std::span<const std::int32_t> tokens,
                                    BlockId device);

  /// Forget the prefixes of which no copy is held or in transfer.
  void clear_prefixes();

  /// Check pools, prefixes and twins against each other; throws InternalError. O(blocks).
  void check_integrity() const;

 private:
  void forget_content(Tier tier, BlockId block);
  void separate(Tier tier, BlockId block);
  void separate_if_unwanted(Tier tier, BlockId block);
  void refresh(Tier tier, BlockId block);

  PerTier<BlockPool> pools_;
  PerTier<std::vector<BlockId>> twins_;
  PrefixCache prefixes_;
};

}  // namespace fastserve::kv
