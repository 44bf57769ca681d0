#include "kv/sequence_table.h"

#include <utility>

#include "base/error.h"

namespace fastserve::kv {
namespace {

constexpr std::size_t kInitialCells = 64;

}  // namespace

SequenceTable::SequenceTable() : cells_(kInitialCells) {}

Sequence& SequenceTable::add(SeqId id) {
  if (2 * static_cast<std::size_t>(size_ + 1) > cells_.size()) grow();
  std::int32_t slot;
  if (vacant_.empty()) {
    slot = static_cast<std::int32_t>(slots_.size());
    slots_.emplace_back();
  } else {
    slot = vacant_.back();
    vacant_.pop_back();
  }
  cells_[cell_of(id)] = {id, slot};
  ++size_;
  Sequence& added = slots_[slot];  // empty, but its vectors keep their memory
  added = Sequence{.id = id, .device = std::move(added.device), .host = std::move(added.host)};
  return added;
}

void SequenceTable::remove(SeqId id) {
  std::size_t gap = cell_of(id);
  FS_CHECK(cells_[gap].slot >= 0, "sequence ", static_cast<std::int64_t>(id), " is not in the table");
  Sequence& removed = slots_[cells_[gap].slot];
  removed.device.clear();
  removed.host.clear();
  vacant_.push_back(cells_[gap].slot);
  --size_;
  // Close the gap: a later cell of the run moves up when its home is not between the gap and itself.
  const std::size_t mask = cells_.size() - 1;
  for (std::size_t at = (gap + 1) & mask; cells_[at].slot >= 0; at = (at + 1) & mask) {
    if (((at - home(cells_[at].id)) & mask) < ((at - gap) & mask)) continue;
    cells_[gap] = cells_[at];
    gap = at;
  }
  cells_[gap].slot = -1;
}

void SequenceTable::grow() {
  std::vector<Cell> old(2 * cells_.size());
  old.swap(cells_);
  for (const Cell& cell : old) {
    if (cell.slot >= 0) cells_[cell_of(cell.id)] = cell;
  }
}

}  // namespace fastserve::kv
