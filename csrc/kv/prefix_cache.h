#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "kv/block_pool.h"
#include "kv/per_tier.h"
#include "kv/types.h"

namespace fastserve::kv {

/// Hash of a block's tokens, chained to the hash of what stands before it.
using BlockHashFn = std::uint64_t (*)(std::uint64_t parent_hash, std::span<const std::int32_t> tokens);

/// The shipped BlockHashFn; a multiply-and-shift chain over pairs of tokens. Not for use against an adversary, which is
/// why entries are compared by tokens.
std::uint64_t chain_block_hash(std::uint64_t parent_hash, std::span<const std::int32_t> tokens);

/// Finds full blocks by their content: tokens of the block, the block before it, and the salt.
///
/// An entry names a device block, a host block or both (which then hold the same bytes) and vanishes with the last of
/// them. A hash only leads to the entry: the tokens and the identity of the parent must match, so a collision is a
/// miss. An identity is never reused; an entry whose parent vanished cannot be found any more and waits to be evicted.
/// A block has at most one entry.
class PrefixCache {
 public:
  /// A place in a chain of blocks: an entry, or the root of all chains of a salt.
  struct Link {
    std::int32_t entry = -1;     // -1: root
    std::uint64_t identity = 0;  // of the entry; of a root: its salt
    std::uint64_t hash = 0;
  };

  struct Insertion {
    Link link;
    bool inserted = false;
  };

  PrefixCache(std::int32_t block_size, std::int32_t num_device_blocks, std::int32_t num_host_blocks,
              BlockHashFn hash = chain_block_hash);

  static Link root(std::uint64_t salt);

  /// The block of `tokens` [block_size] that follows `parent`.
  std::optional<Link> find(const Link& parent, std::span<const std::int32_t> tokens) const;

  /// The entry that `find` would give, or else a new one that names `device`. If an entry (which cannot be found any
  /// more) names `device` already, that entry moves to the new place with all it names.
  Insertion find_or_insert(const Link& parent, std::span<const std::int32_t> tokens, BlockId device);

  /// False when the entry has vanished or moved since the link was given.
  bool alive(const Link& link) const;

  /// Block of the entry on a tier, kNoBlock when it has none there. Needs a live link that is no root.
  BlockId block(const Link& link, Tier tier) const;

  /// True when an entry names the block.
  bool contains(Tier tier, BlockId block) const { return entry_of(tier, block) >= 0; }

  /// True when one entry names both blocks, or none names either.
  bool same_entry(Tier tier, BlockId block, BlockId copy) const {
    return entry_of(tier, block) == entry_of(other_tier(tier), copy);
  }

  /// Name a second block, on the other tier, that holds the same bytes as `known`. No-op when no entry names `known`.
  void attach_copy(Tier known_tier, BlockId known, BlockId copy);

  /// Name the block no longer. No-op when no entry does.
  void detach(Tier tier, BlockId block);

  std::int32_t num_entries() const { return num_entries_; }

  /// Check the index, the entries and the blocks they name against each other; throws InternalError. O(blocks).
  void check_integrity() const;

 private:
  struct Entry {
    std::uint64_t identity = 0;  // 0: vacant
    std::uint64_t parent_identity = 0;
    std::uint64_t hash = 0;
    std::int32_t parent_entry = -1;
    std::int32_t next = -1;  // in the bucket, or in the list of vacant entries
    PerTier<BlockId> blocks{kNoBlock, kNoBlock};
  };

  std::int32_t entry_of(Tier tier, BlockId block) const { return entry_of_[tier][index_of(block)]; }
  std::int32_t& entry_of(Tier tier, BlockId block) { return entry_of_[tier][index_of(block)]; }
  std::span<std::int32_t> tokens_of(std::int32_t entry);
  std::span<const std::int32_t> tokens_of(std::int32_t entry) const;
  std::int32_t& bucket_of(std::uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
  std::int32_t find_entry(const Link& parent, std::uint64_t hash, std::span<const std::int32_t> tokens) const;
  std::int32_t take_vacant_entry();
  void unlink_from_bucket(std::int32_t entry);
  Link link_to(std::int32_t entry) const { return {entry, entries_[entry].identity, entries_[entry].hash}; }

  std::int32_t block_size_;
  BlockHashFn hash_;
  std::uint64_t next_identity_ = 1;
  std::int32_t num_entries_ = 0;
  std::int32_t vacant_ = -1;
  std::vector<std::int32_t> buckets_;            // power of two
  std::vector<Entry> entries_;                   // grows with use, at most one per block
  std::vector<std::int32_t> tokens_;             // [entries, block_size]
  PerTier<std::vector<std::int32_t>> entry_of_;  // per tier and block, -1 when none
};

}  // namespace fastserve::kv
