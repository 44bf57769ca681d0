#pragma once

#include <cstdint>

#include "kv/block_store.h"
#include "kv/sequence_table.h"
#include "kv/transfer_table.h"

namespace fastserve::kv {

/// Recompute every holder and pin from the sequences and transfers, and check what each residency promises; throws
/// InternalError naming the first thing that is wrong. O(blocks + sequences).
void check_integrity(const BlockStore& store, const SequenceTable& sequences, const TransferTable& transfers,
                     std::int32_t block_size);

}  // namespace fastserve::kv
