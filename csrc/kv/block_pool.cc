#include "kv/block_pool.h"

#include "base/error.h"

namespace fastserve::kv {

BlockPool::BlockPool(std::int32_t num_blocks) : num_blocks_(num_blocks) {
  FS_REQUIRE(num_blocks >= 0, "num_blocks must not be negative, got ", num_blocks);
  uses_.resize(static_cast<std::size_t>(num_blocks));
  links_.resize(uses_.size() + 2);
  for (const std::int32_t list : {plain_list(), cached_list()}) links_[list].previous = links_[list].next = list;
  for (std::int32_t index = 0; index < num_blocks; ++index) insert_after(links_[plain_list()].previous, index);
}

void BlockPool::refuse(BlockId block) const {
  detail::raise<InvalidArgumentError>("block ", index_of(block), " is not of this pool: ids are 0 to ",
                                      num_blocks_ - 1);
}

std::optional<BlockId> BlockPool::try_allocate() {
  const std::int32_t index = links_[plain_list()].next;
  if (index == plain_list()) return std::nullopt;
  const BlockId block{index};
  leave_free(block);
  uses_[index].holders = 1;
  ++num_used_;
  return block;
}

BlockId BlockPool::oldest_cached() const {
  const std::int32_t index = links_[cached_list()].next;
  return index == cached_list() ? kNoBlock : BlockId{index};
}

void BlockPool::hold(BlockId block) {
  Use& held = use(block);
  FS_REQUIRE(!held.free() || held.cached, "block ", index_of(block), " is free: allocate it instead of holding it");
  if (held.free()) {
    leave_free(block);
    ++num_used_;
  }
  ++held.holders;
}

void BlockPool::release(BlockId block) {
  Use& released = use(block);
  FS_REQUIRE(released.holders > 0, "block ", index_of(block), " has no holder: release it once per hold");
  --released.holders;
  if (!released.free()) return;
  --num_used_;
  enter_free(block);
}

void BlockPool::pin(BlockId block) {
  Use& pinned = use(block);
  FS_REQUIRE(!pinned.free(), "block ", index_of(block), " is free: hold it before it is pinned");
  if (pinned.pins++ > 0) return;
  --num_used_;
  ++num_in_transfer_;
}

void BlockPool::unpin(BlockId block) {
  Use& unpinned = use(block);
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
  Use& changed = use(block);
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
  const Use& asked = use(block);
  if (asked.pins > 0) return BlockState::kInTransfer;
  if (asked.holders > 0) return BlockState::kUsed;
  return asked.cached ? BlockState::kCached : BlockState::kFree;
}

void BlockPool::insert_after(std::int32_t position, std::int32_t index) {
  const std::int32_t next = links_[position].next;
  links_[index].previous = position;
  links_[index].next = next;
  links_[position].next = index;
  links_[next].previous = index;
}

void BlockPool::unlink(std::int32_t index) {
  links_[links_[index].previous].next = links_[index].next;
  links_[links_[index].next].previous = links_[index].previous;
}

/// Plain blocks are a stack, because the last one used is the warmest; cached ones a queue.
void BlockPool::enter_free(BlockId block) {
  const std::int32_t index = index_of(block);
  const bool cached = uses_[index].cached;
  insert_after(cached ? links_[cached_list()].previous : plain_list(), index);
  num_cached_ += cached;
}

void BlockPool::leave_free(BlockId block) {
  const std::int32_t index = index_of(block);
  unlink(index);
  num_cached_ -= uses_[index].cached;
}

std::int32_t BlockPool::check_list(std::int32_t list, bool cached) const {
  std::int32_t length = 0;
  for (std::int32_t index = links_[list].next; index != list; index = links_[index].next) {
    FS_CHECK(index >= 0 && index < num_blocks_ && length < num_blocks_, "a free list leads out of the pool at ", index);
    FS_CHECK(uses_[index].free() && uses_[index].cached == cached, "block ", index, " is in the wrong list");
    FS_CHECK(links_[links_[index].next].previous == index, "the links of block ", index, " disagree");
    ++length;
  }
  return length;
}

void BlockPool::check_integrity() const {
  std::int32_t used = 0, in_transfer = 0;
  for (std::int32_t index = 0; index < num_blocks_; ++index) {
    const Use& checked = uses_[index];
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
