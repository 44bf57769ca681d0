#include "kv/transfer_table.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace fastserve::kv {

TransferTable::TransferTable(std::int32_t num_device_blocks)
    : leaving_to_(num_device_blocks, kNoBlock), leaving_by_(num_device_blocks) {}

InFlight& TransferTable::add(Transfer transfer) {
  if (transfer.kind != TransferKind::kUpload) {
    for (std::size_t i = 0; i < transfer.source.size(); ++i) {
      const std::int32_t device = index_of(transfer.source[i]);
      FS_CHECK(leaving_to_[device] == kNoBlock, "block ", device, " is copied to the host twice");
      leaving_to_[device] = transfer.target[i];
      leaving_by_[device] = transfer.id;
    }
  }
  const TransferId id = transfer.id;
  return in_flight_.emplace(id, InFlight{std::move(transfer), {}}).first->second;
}

InFlight TransferTable::take(TransferId id) {
  const auto found = in_flight_.find(id);
  FS_REQUIRE(found != in_flight_.end(), "transfer ", static_cast<std::int64_t>(id),
             " is not under way: report each transfer that has blocks once");
  InFlight taken = std::move(found->second);
  in_flight_.erase(found);
  if (taken.transfer.kind != TransferKind::kUpload) {
    for (const BlockId device : taken.transfer.source) {
      leaving_to_[index_of(device)] = kNoBlock;
      leaving_by_[index_of(device)] = TransferId{};
    }
  }
  return taken;
}

bool TransferTable::wait_for(BlockId device, const Waiter& waiter) {
  std::vector<Waiter>& waiters = in_flight_.at(leaving_by_[index_of(device)]).waiters;
  if (std::ranges::find(waiters, waiter) != waiters.end()) return false;
  waiters.push_back(waiter);
  return true;
}

void TransferTable::check_integrity() const {
  std::size_t num_leaving = 0;
  for (const auto& [id, in_flight] : in_flight_) {
    const Transfer& transfer = in_flight.transfer;
    FS_CHECK(!transfer.source.empty() && transfer.source.size() == transfer.target.size(), "transfer ",
             static_cast<std::int64_t>(id), " has ", transfer.source.size(), " sources");
    if (transfer.kind == TransferKind::kUpload) continue;
    for (std::size_t i = 0; i < transfer.source.size(); ++i) {
      const std::int32_t device = index_of(transfer.source[i]);
      FS_CHECK(leaving_by_[device] == id && leaving_to_[device] == transfer.target[i], "block ", device,
               " does not know that it is copied");
    }
    num_leaving += transfer.source.size();
  }
  const auto marked = std::ranges::count_if(leaving_to_, [](BlockId host) { return host != kNoBlock; });
  FS_CHECK(static_cast<std::size_t>(marked) == num_leaving, marked, " blocks are marked as copied, ", num_leaving,
           " are");
}

}  // namespace fastserve::kv
