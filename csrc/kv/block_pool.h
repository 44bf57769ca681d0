#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kv/types.h"

namespace fastserve::kv {

/// "No block", where a table of blocks has holes.
inline constexpr BlockId kNoBlock{-1};

/// kFree: content undefined. kCached: free as well, but the content is worth keeping until the space is wanted. kUsed:
/// held. kInTransfer: a copy reads or writes it, no matter which sequence holds it.
enum class BlockState : std::uint8_t { kFree, kCached, kUsed, kInTransfer };

/// The blocks of one tier: holders, pins of copies under way, the free list and the least-recently-used list of cached
/// blocks. Knows nothing of contents.
///
/// A block with neither holder nor pin is free. All operations are O(1) and allocate nothing. A broken contract
/// (foreign id, double free, ...) throws InvalidArgumentError and changes nothing. num_free + num_used +
/// num_in_transfer = num_total always.
class BlockPool {
 public:
  /// `num_blocks` may be 0. Blocks are handed out from index 0 up.
  explicit BlockPool(std::int32_t num_blocks);

  std::int32_t num_total() const { return num_blocks_; }
  std::int32_t num_free() const { return num_blocks_ - num_used_ - num_in_transfer_; }
  std::int32_t num_used() const { return num_used_; }
  std::int32_t num_in_transfer() const { return num_in_transfer_; }
  /// Cached blocks, part of num_free.
  std::int32_t num_cached() const { return num_cached_; }

  /// Take an uncached free block, with one holder: the one that became free last. nullopt when there is none; then
  /// set_cached(oldest_cached(), false) makes one.
  std::optional<BlockId> try_allocate();

  /// Cached block that became free longest ago, kNoBlock when there is none.
  BlockId oldest_cached() const;

  /// Add a holder to a block that is not kFree.
  void hold(BlockId block);

  /// Take a holder away; the last one frees the block unless it is pinned.
  void release(BlockId block);

  /// Add a copy under way to a block that is held or pinned.
  void pin(BlockId block);

  /// End a copy under way; the last one frees the block unless it is held.
  void unpin(BlockId block);

  /// Say whether the content is worth keeping once the block is free. A new block's is not.
  void set_cached(BlockId block, bool cached);

  /// Make a kCached block the youngest of them.
  void touch(BlockId block);

  BlockState state(BlockId block) const;
  bool is_free(BlockId block) const { return use(block).free(); }
  std::int32_t num_holders(BlockId block) const { return use(block).holders; }
  std::int32_t num_pins(BlockId block) const { return use(block).pins; }

  /// Check counts and lists; throws InternalError. O(blocks).
  void check_integrity() const;

 private:
  /// Apart from the links, and small: the scheduler counts the holders of thousands of blocks in a step.
  struct Use {
    std::int32_t holders = 0;
    std::int32_t pins : 31 = 0;
    bool cached : 1 = false;
    bool free() const { return holders == 0 && pins == 0; }
  };
  struct Links {
    std::int32_t previous = 0;  // neighbours in the list of a free block
    std::int32_t next = 0;
  };

  const Use& use(BlockId block) const {
    const std::int32_t index = index_of(block);
    if (index < 0 || index >= num_blocks_) refuse(block);
    return uses_[index];
  }
  Use& use(BlockId block) { return const_cast<Use&>(static_cast<const BlockPool*>(this)->use(block)); }
  [[noreturn]] void refuse(BlockId block) const;
  std::int32_t plain_list() const { return num_blocks_; }
  std::int32_t cached_list() const { return num_blocks_ + 1; }
  void insert_after(std::int32_t position, std::int32_t index);
  void unlink(std::int32_t index);
  void enter_free(BlockId block);
  void leave_free(BlockId block);
  std::int32_t check_list(std::int32_t list, bool cached) const;

  std::int32_t num_blocks_;
  std::int32_t num_used_ = 0;
  std::int32_t num_in_transfer_ = 0;
  std::int32_t num_cached_ = 0;
  std::vector<Use> uses_;     // per block
  std::vector<Links> links_;  // of the blocks, then of the sentinels of the two circular lists
};

}  // namespace fastserve::kv
