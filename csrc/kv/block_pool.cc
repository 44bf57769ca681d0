#include "kv/block_pool.h"

#include "base/error.h"

namespace fastserve::kv {

BlockPool::BlockPool(std::int32_t num_blocks) : num_blocks_(num_blocks) {
  FS_REQUIRE(num_blocks >= 0, "num_blocks must not be negative, got ", num_blocks);
  nodes_.resize(static_cast<std::size_t>(num_blocks) + 2);
  for (const std::int32_t list : {plain_list(), cached_list()}) nodes_[list].previous = nodes_[list].next = list;
  for (std::int32_t index = 0; index < num_blocks; ++index) insert_after(nodes_[plain_list()].previous, index);
}

const BlockPool::Node& BlockPool::node(BlockId block) const {
  const std::int32_t index = index_of(block);
  FS_REQUIRE(index >= 0 && index < num_blocks_, "block ", index, " is not of this pool: ids are 0 to ",
             num_blocks_ - 1);
  return nodes_[index];
}

std::optional<BlockId> BlockPool::try_allocate() {
  const std::int32_t index = nodes_[plain_list()].next;
  if (index == plain_list()) return std::nullopt;
  const BlockId block{index};
  leave_free(block);
  nodes_[index].holders = 1;
  ++num_used_;
  return block;
}

BlockId BlockPool::oldest_cached() const {
  const std::int32_t index = nodes_[cached_list()].next;
  return index == cached_list() ? kNoBlock : BlockId{index};
}

void BlockPool::hold(BlockId block) {
  Node& held = node(block);
  FS_REQUIRE(!held.free() || held.cached, "block ", index_of(block), " is free: allocate it instead of holding it");
  if (held.free()) {
    leave_free(block);
    ++num_used_;
  }
  ++held.holders;
}

void BlockPool::release(BlockId block) {
  Node& released = node(block);
  FS_REQUIRE(released.holders > 0, "block ", index_of(block), " has no holder: release it once per hold");
  --released.holders;
  if (!released.free()) return;
  --num_used_;
  enter_free(block);
}

void BlockPool::pin(BlockId block) {
  Node& pinned = node(block);
  FS_REQUIRE(!pinned.free(), "block ", index_of(block), " is free: hold it before it is pinned");
  if (pinned.pins++ > 0) return;
  --num_used_;
  ++num_in_transfer_;
}

void BlockPool::unpin(BlockId block) {
  Node& unpinned = node(block);
  FS_REQUIRE(unpinned.pins > 0, "block ", index_of(block), " is not pinned: unpin it once per pin");
  if (--unpinned.pins > 0) return;
  --num_in_transfer_;
  if (unpinned.free()) {
    enter_free(block);
  } else {
    ++num_used_;
  }
}

void BlockPool::set_cached(BlockId block, bool cached) {
  Node& changed = node(block);
  if (changed.cached == cached) return;
  const bool free = changed.free();
  if (free) leave_free(block);
  changed.cached = cached;
  if (free) enter_free(block);
}

void BlockPool::touch(BlockId block) {
  FS_REQUIRE(state(block) == BlockState::kCached, "block ", index_of(block), " is not cached: only those have an age");
  leave_free(block);
  enter_free(block);
}

BlockState BlockPool::state(BlockId block) const {
  const Node& asked = node(block);
  if (asked.pins > 0) return BlockState::kInTransfer;
  if (asked.holders > 0) return BlockState::kUsed;
  return asked.cached ? BlockState::kCached : BlockState::kFree;
}

bool BlockPool::is_free(BlockId block) const { return node(block).free(); }

void BlockPool::insert_after(std::int32_t position, std::int32_t index) {
  const std::int32_t next = nodes_[position].next;
  nodes_[index].previous = position;
  nodes_[index].next = next;
  nodes_[position].next = index;
  nodes_[next].previous = index;
}

void BlockPool::unlink(std::int32_t index) {
  nodes_[nodes_[index].previous].next = nodes_[index].next;
  nodes_[nodes_[index].next].previous = nodes_[index].previous;
}

/// Plain blocks are a stack, because the last one used is the warmest; cached ones a queue.
void BlockPool::enter_free(BlockId block) {
  const std::int32_t index = index_of(block);
  const bool cached = nodes_[index].cached;
  insert_after(cached ? nodes_[cached_list()].previous : plain_list(), index);
  num_cached_ += cached;
}

void BlockPool::leave_free(BlockId block) {
  const std::int32_t index = index_of(block);
  unlink(index);
  num_cached_ -= nodes_[index].cached;
}

std::int32_t BlockPool::check_list(std::int32_t list, bool cached) const {
  std::int32_t length = 0;
  for (std::int32_t index = nodes_[list].next; index != list; index = nodes_[index].next) {
    FS_CHECK(index >= 0 && index < num_blocks_ && length < num_blocks_, "a free list leads out of the pool at ", index);
    FS_CHECK(nodes_[index].free() && nodes_[index].cached == cached, "block ", index, " is in the wrong list");
    FS_CHECK(nodes_[nodes_[index].next].previous == index, "the links of block ", index, " disagree");
    ++length;
  }
  return length;
}

void BlockPool::check_integrity() const {
  std::int32_t used = 0, in_transfer = 0;
  for (std::int32_t index = 0; index < num_blocks_; ++index) {
    const Node& checked = nodes_[index];
    FS_CHECK(checked.holders >= 0 && checked.pins >= 0, "block ", index, " has ", checked.holders, " holders, ",
             checked.pins, " pins");
    in_transfer += checked.pins > 0;
    used += checked.pins == 0 && checked.holders > 0;
  }
  FS_CHECK(used == num_used_, num_used_, " blocks are counted as used, ", used, " are");
  FS_CHECK(in_transfer == num_in_transfer_, num_in_transfer_, " blocks are counted as in transfer, ", in_transfer,
           " are");
  const std::int32_t cached = check_list(cached_list(), true);
  FS_CHECK(cached == num_cached_, num_cached_, " blocks are counted as cached, ", cached, " are listed");
  const std::int32_t plain = check_list(plain_list(), false);
  FS_CHECK(plain + cached == num_free(), num_free(), " blocks are free, ", plain + cached, " are listed");
}

}  // namespace fastserve::kv
