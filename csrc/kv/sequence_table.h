#pragma once

#include <cstdint>
#include <vector>

#include "base/block_hash.h"
#include "kv/kv_manager.h"
#include "kv/prefix_cache.h"
#include "kv/types.h"

namespace fastserve::kv {

/// What one sequence holds.
///
/// | residency   | device                    | host                      |
/// |-------------|---------------------------|---------------------------|
/// | kNone       | -                         | -                         |
/// | kDevice     | every block               | -                         |
/// | kOffloading | every block               | one per computed block    |
/// | kHost       | exactly one of the two for each computed block        ||
/// | kUploading  | one per computed block    | as it was in kHost        |
///
/// What every step of a running sequence touches is the first cache line.
struct alignas(64) Sequence {
  SeqId id{};
  std::int64_t num_computed = 0;    // tokens
  std::vector<BlockId> device{};    // by position, kNoBlock where nothing is held
  std::int32_t num_registered = 0;  // leading blocks that went through the prefix cache
  std::int32_t num_pending = 0;     // transfers to wait for, in kOffloading and kUploading
  Residency residency = Residency::kNone;
  bool move_failed = false;  // one of the copies waited for
  bool moved = false;        // was offloaded or uploaded: its last, unfinished block may have a copy
  std::vector<BlockId> host{};
  std::uint64_t salt = 0;
  std::uint64_t life = 0;    // changes whenever the KV is given up, so that late transfers know their owner is gone
  PrefixCache::Link tail{};  // of the last registered block, or the root
};

/// The live sequences by id. Open addressing over reused slots: a look-up costs a few ns, and a table that has reached
/// its size allocates nothing.
class SequenceTable {
 public:
  SequenceTable();

  /// nullptr when unknown.
  Sequence* find(SeqId id) {
    const Cell& cell = cells_[cell_of(id)];
    return cell.slot >= 0 ? &slots_[cell.slot] : nullptr;
  }
  const Sequence* find(SeqId id) const { return const_cast<SequenceTable*>(this)->find(id); }

  /// Needs an unknown id. Invalidates pointers to other sequences.
  Sequence& add(SeqId id);

  /// Needs a known id.
  void remove(SeqId id);

  std::int32_t size() const { return size_; }

  template <typename Visit>
  void for_each(Visit&& visit) const {
    for (const Cell& cell : cells_) {
      if (cell.slot >= 0) visit(slots_[cell.slot]);
    }
  }

 private:
  struct Cell {
    SeqId id{};
    std::int32_t slot = -1;  // -1: empty
  };

  std::size_t home(SeqId id) const {
    const std::uint64_t mixed = static_cast<std::uint64_t>(id) * kHashMultiplier;
    return (mixed ^ (mixed >> 32)) & (cells_.size() - 1);
  }
  /// The cell of the id, or the empty one where it would go.
  std::size_t cell_of(SeqId id) const {
    std::size_t at = home(id);
    while (cells_[at].slot >= 0 && cells_[at].id != id) at = (at + 1) & (cells_.size() - 1);
    return at;
  }
  void grow();

  std::int32_t size_ = 0;
  std::vector<Cell> cells_;  // power of two, at most half full
  std::vector<Sequence> slots_;
  std::vector<std::int32_t> vacant_;
};

}  // namespace fastserve::kv
