#pragma once

#include <cstdint>
#include <optional>

#include "kv/block_store.h"
#include "kv/sequence_table.h"
#include "kv/transfer_table.h"
#include "kv/types.h"

namespace fastserve::kv {

/// Moves sequences between the tiers: chooses the blocks to copy, pins them while they are copied, and changes the
/// residency when the last copy a move waits for is complete. The checks of the caller's contract are KvManager's.
class Migration {
 public:
  Migration(BlockStore& store, SequenceTable& sequences, std::int32_t block_size, std::int32_t num_device_blocks);

  std::optional<Transfer> try_offload(Sequence& seq);
  std::optional<Transfer> try_mirror(const Sequence& seq, std::int32_t max_blocks);
  std::optional<Transfer> try_upload(Sequence& seq);
  void complete(TransferId transfer, bool ok);

  std::int32_t num_blocks_to_offload(const Sequence& seq, std::int32_t enough = INT32_MAX) const;
  std::int32_t num_blocks_to_upload(const Sequence& seq) const;

  const TransferTable& transfers() const { return transfers_; }

 private:
  std::int32_t num_computed_blocks(const Sequence& seq) const;
  void adopt_host_copies(Sequence& seq);
  InFlight& start(const Transfer& transfer);
  void start_move(Sequence& seq, const Transfer& transfer);
  void finish_move(Sequence& seq);
  void finish_offload(Sequence& seq);
  void finish_upload(Sequence& seq);
  void abandon_upload(Sequence& seq);

  BlockStore& store_;
  SequenceTable& sequences_;
  std::int32_t block_size_;
  TransferTable transfers_;
};

/// Give up the blocks a sequence holds on a tier, last first: of a cached prefix the end goes before the beginning.
void release_blocks(BlockStore& store, Tier tier, std::vector<BlockId>& blocks);

}  // namespace fastserve::kv
