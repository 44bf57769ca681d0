#include "kv/integrity.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "kv/per_tier.h"

namespace fastserve::kv {
namespace {

using Counts = PerTier<std::vector<std::int32_t>>;

Counts zero_counts(const BlockStore& store) {
  return {std::vector<std::int32_t>(store.pool(Tier::kDevice).num_total()),
          std::vector<std::int32_t>(store.pool(Tier::kHost).num_total())};
}

void count_holders(const Sequence& seq, Counts& holders) {
  for (const BlockId block : seq.device) {
    if (block != kNoBlock) ++holders.device[index_of(block)];
  }
  for (const BlockId block : seq.host) {
    if (block != kNoBlock) ++holders.host[index_of(block)];
  }
}

void count_pins(const InFlight& in_flight, Counts& pins) {
  const Tier from = in_flight.transfer.kind == TransferKind::kUpload ? Tier::kHost : Tier::kDevice;
  for (const BlockId block : in_flight.transfer.source) ++pins[from][index_of(block)];
  for (const BlockId block : in_flight.transfer.target) ++pins[other_tier(from)][index_of(block)];
}

std::int64_t num_held(const std::vector<BlockId>& blocks) {
  return std::ranges::count_if(blocks, [](BlockId block) { return block != kNoBlock; });
}

/// The table in sequence_table.h.
void check_sequence(const Sequence& seq, std::int32_t block_size, std::int32_t num_waits) {
  const auto id = static_cast<std::int64_t>(seq.id);
  const std::int64_t num_computed_blocks = (seq.num_computed + block_size - 1) / block_size;
  const auto num_device = std::ssize(seq.device), num_host = std::ssize(seq.host);
  const bool moving = seq.residency == Residency::kOffloading || seq.residency == Residency::kUploading;
  FS_CHECK(moving == (seq.num_pending > 0), "sequence ", id, " waits for ", seq.num_pending, " transfers");
  FS_CHECK(seq.num_pending == num_waits, "sequence ", id, " waits for ", seq.num_pending, " transfers, ", num_waits,
           " know of it");
  FS_CHECK(seq.num_computed >= 0 && seq.num_registered <= seq.num_computed / block_size, "sequence ", id,
           " registered blocks it has not computed");
  switch (seq.residency) {
    case Residency::kNone:
      FS_CHECK(num_device == 0 && num_host == 0 && seq.num_computed == 0, "sequence ", id, " has no KV but holds some");
      return;
    case Residency::kDevice: FS_CHECK(num_host == 0, "sequence ", id, " on the device holds host blocks"); break;
    case Residency::kOffloading:
      FS_CHECK(num_host == num_computed_blocks && num_held(seq.host) == num_host, "sequence ", id,
               " lacks host blocks");
      break;
    case Residency::kHost:
      FS_CHECK(num_host == num_computed_blocks && num_device == num_host, "sequence ", id, " lacks host blocks");
      for (std::int64_t i = 0; i < num_host; ++i) {
        FS_CHECK((seq.host[i] == kNoBlock) != (seq.device[i] == kNoBlock), "sequence ", id,
                 " holds none or both copies of block ", i);
      }
      return;
    case Residency::kUploading:
      FS_CHECK(num_host == num_computed_blocks && num_device == num_host, "sequence ", id, " lacks host blocks");
      break;
  }
  FS_CHECK(num_device >= num_computed_blocks && num_held(seq.device) == num_device, "sequence ", id,
           " lacks device blocks");
}

void check_counts(const BlockStore& store, Tier tier, const Counts& holders, const Counts& pins) {
  const BlockPool& pool = store.pool(tier);
  for (std::int32_t index = 0; index < pool.num_total(); ++index) {
    FS_CHECK(pool.num_holders(BlockId{index}) == holders[tier][index], "block ", index, " of tier ",
             static_cast<int>(tier), " counts ", pool.num_holders(BlockId{index}), " holders, ", holders[tier][index],
             " sequences hold it");
    FS_CHECK(pool.num_pins(BlockId{index}) == pins[tier][index], "block ", index, " of tier ", static_cast<int>(tier),
             " counts ", pool.num_pins(BlockId{index}), " pins, ", pins[tier][index], " transfers copy it");
  }
}

}  // namespace

void check_integrity(const BlockStore& store, const SequenceTable& sequences, const TransferTable& transfers,
                     std::int32_t block_size) {
  store.check_integrity();
  transfers.check_integrity();
  Counts holders = zero_counts(store), pins = zero_counts(store);
  std::unordered_map<SeqId, std::int32_t> num_waits;
  transfers.for_each([&](const InFlight& in_flight) {
    count_pins(in_flight, pins);
    for (const Waiter& waiter : in_flight.waiters) {
      const Sequence* seq = sequences.find(waiter.seq);
      if (seq != nullptr && seq->life == waiter.life) ++num_waits[waiter.seq];
    }
  });
  std::int32_t num_sequences = 0;
  sequences.for_each([&](const Sequence& seq) {
    ++num_sequences;
    FS_CHECK(sequences.find(seq.id) == &seq, "sequence ", static_cast<std::int64_t>(seq.id), " cannot be found");
    check_sequence(seq, block_size, num_waits[seq.id]);
    count_holders(seq, holders);
  });
  FS_CHECK(num_sequences == sequences.size(), sequences.size(), " sequences are counted, ", num_sequences,
           " are there");
  check_counts(store, Tier::kDevice, holders, pins);
  check_counts(store, Tier::kHost, holders, pins);
}

}  // namespace fastserve::kv
