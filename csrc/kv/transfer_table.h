#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "kv/block_pool.h"
#include "kv/types.h"

namespace fastserve::kv {

/// A sequence, as it was when it began to wait for a transfer (see Sequence::life).
struct Waiter {
  SeqId seq{};
  std::uint64_t life = 0;
  bool operator==(const Waiter&) const = default;
};

/// A transfer that was handed out and not yet reported complete, and the sequences that cannot move on before it is.
struct InFlight {
  Transfer transfer;
  std::vector<Waiter> waiters;
};

/// The transfers under way, and for each device block the copy to the host that reads it (there is at most one).
class TransferTable {
 public:
  explicit TransferTable(std::int32_t num_device_blocks);

  /// An id that was never given before.
  TransferId next_id() { return TransferId{next_id_++}; }

  /// Needs at least one block, and device blocks that no copy to the host reads yet.
  InFlight& add(Transfer transfer);

  /// Remove a transfer because it is complete; an id that is not under way throws InvalidArgumentError.
  InFlight take(TransferId id);

  /// True when a copy of the device block to the host is under way.
  bool is_leaving(BlockId device) const { return leaving_to_[index_of(device)] != kNoBlock; }

  /// Host block the copy writes. Needs is_leaving.
  BlockId destination(BlockId device) const { return leaving_to_[index_of(device)]; }

  /// Make the sequence wait for that copy; false when it waits for its transfer already. Needs is_leaving.
  bool wait_for(BlockId device, const Waiter& waiter);

  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const auto& [id, in_flight] : in_flight_) visit(in_flight);
  }

  /// Check the device blocks marked as leaving against the transfers; throws InternalError.
  void check_integrity() const;

 private:
  std::int64_t next_id_ = 1;
  std::unordered_map<TransferId, InFlight> in_flight_;
  std::vector<BlockId> leaving_to_;     // per device block, kNoBlock when no copy to the host reads it
  std::vector<TransferId> leaving_by_;  // per device block; 0, an id never given, likewise
};

}  // namespace fastserve::kv
