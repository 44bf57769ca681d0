#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "kv/types.h"

namespace fastserve::kv {

/// Most blocks of a tier, and most tokens of a block: what is kept of each block takes some 60 bytes, and its tokens 4
/// each, so the largest pools take 2 GB before they hold anything.
inline constexpr std::int32_t kMaxBlocks = 1 << 24;
inline constexpr std::int32_t kMaxBlockSize = 1 << 10;

struct KvConfig {
  std::int32_t block_size = 16;        // tokens, 1 to kMaxBlockSize
  std::int32_t num_device_blocks = 0;  // 1 to kMaxBlocks
  std::int32_t num_host_blocks = 0;    // 0 to kMaxBlocks; 0: nothing can be parked on the host
  bool enable_prefix_caching = true;
};

/// Block counts of one tier; free + used + in_transfer = total after every call. `cached` blocks are part of `free`:
/// they hold content that goes, least recently used first, when the space is wanted: prefixes, on the host the mirrors
/// of sequences on the device, on the device what offloaded sequences left there.
struct TierUsage {
  std::int32_t total = 0;
  std::int32_t free = 0;
  std::int32_t used = 0;
  std::int32_t in_transfer = 0;
  std::int32_t cached = 0;
};

/// Owns every KV block of the device and the host pool: who holds it, what it contains, what is being copied.
///
/// Decides nothing: the scheduler says what to offload, upload or drop. Copies nothing: it hands out Transfers, and its
/// caller reports them when they are complete. Single-threaded, no clock. A method that cannot be served returns false or nullopt and
/// changes nothing; a broken contract throws InvalidArgumentError and changes nothing.
class KvManager {
 public:
  explicit KvManager(const KvConfig& config);
  ~KvManager();
  KvManager(const KvManager&) = delete;
  KvManager& operator=(const KvManager&) = delete;

  const KvConfig& config() const;

  // --- sequences ---

  /// Tokens of the longest cached prefix (whole blocks, on either tier, at most tokens.size() - 1). Changes nothing.
  std::int64_t probe_prefix(std::span<const std::int32_t> tokens, std::uint64_t salt) const;

  /// Start a sequence and adopt the longest cached prefix; returns its tokens (a multiple of the block size, smaller
  /// than tokens.size(), so that at least one token is computed). Afterwards the residency is kNone (nothing adopted),
  /// kDevice, or kHost when a block of the prefix is on the host only: then it needs try_upload before it can run.
  std::int64_t begin(SeqId seq, std::span<const std::int32_t> tokens, std::uint64_t salt);

  /// Hold device blocks for `num_tokens` tokens in all. Needs kNone or kDevice; false when the device pool is short.
  /// Growing from kNone makes it kDevice.
  bool try_reserve(SeqId seq, std::int64_t num_tokens);

  /// The KV of the first `num_computed` of `tokens` (prompt + output) is written; it never shrinks. Newly full blocks
  /// enter the prefix cache. Allocates nothing.
  void commit_computed(SeqId seq, std::span<const std::int32_t> tokens, std::int64_t num_computed);

  /// Bring what commit_computed touches into the cache, for those who walk over many sequences. Unknown ids are
  /// ignored.
  void prefetch(SeqId seq) const;

  /// Device blocks in order of position; valid until the next non-const call. Needs kDevice (or kOffloading).
  std::span<const BlockId> device_blocks(SeqId seq) const;

  /// Give up all KV of the sequence on both tiers; it may begin to reserve again from nothing. Blocks in transfer are
  /// freed when their transfer completes.
  void drop(SeqId seq);

  /// Forget the sequence. Its full blocks may live on in the prefix cache; blocks in transfer are freed on completion.
  void end(SeqId seq);

  Residency residency(SeqId seq) const;
  bool contains(SeqId seq) const;
  /// Tokens whose KV is valid (0 after drop).
  std::int64_t num_computed(SeqId seq) const;
  std::int32_t num_device_blocks(SeqId seq) const;
  /// Device blocks that would become free if the sequence left the device (those it does not share).
  std::int32_t num_releasable_blocks(SeqId seq) const;
  /// Blocks an offload would still have to copy (those without a valid host copy, none under way); 0 unless kDevice.
  /// Counts up to `enough`, from the last block on: that is the one most likely to have no copy.
  std::int32_t num_blocks_to_offload(SeqId seq, std::int32_t enough = INT32_MAX) const;
  /// Free device blocks an upload would take (cached ones it adopts without a copy included); 0 unless kHost.
  std::int32_t num_blocks_to_upload(SeqId seq) const;
  /// Further device blocks needed to hold `num_tokens`.
  std::int32_t num_blocks_to_reserve(SeqId seq, std::int64_t num_tokens) const;

  // --- copies ---

  /// Start to move a kDevice sequence to the host. nullopt when the host pool is short. With nothing left to copy (all
  /// mirrored) the transfer is empty, is already complete, and the sequence is kHost; otherwise it is kOffloading.
  /// Copies of its blocks that other transfers have under way are not made twice but waited for: the sequence is
  /// kOffloading until the last of them is complete, be its own transfer complete before or empty. So ask residency()
  /// after any complete().
  std::optional<Transfer> try_offload(SeqId seq);

  /// Start to copy up to `max_blocks` full, unmirrored blocks of a kDevice sequence; it keeps running meanwhile.
  /// nullopt when there is nothing to copy or the host pool is short: a mirror takes no space from another mirror.
  std::optional<Transfer> try_mirror(SeqId seq, std::int32_t max_blocks);

  /// Start to bring a kHost sequence back. nullopt when the device pool is short. Empty and complete when every block
  /// turned out to be on the device already (prefix cache).
  std::optional<Transfer> try_upload(SeqId seq);

  /// Report the end of a transfer. A failed offload (or a failed mirror that an offload waits for) leaves the sequence
  /// on the device, a failed upload on the host, a failed mirror without the copies. Unknown or completed ids throw; so
  /// does the id of an empty transfer.
  void complete(TransferId transfer, bool ok);

  // --- pools ---

  TierUsage usage(Tier tier) const;
  std::int32_t num_free(Tier tier) const;
  /// Forget all cached prefixes that no sequence holds.
  void clear_prefix_cache();

  /// Check every invariant; throws InternalError naming the first one broken. O(blocks + sequences).
  void check_integrity() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastserve::kv
