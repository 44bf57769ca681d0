#include "kv/block_store.h"

#include "base/error.h"

namespace fastserve::kv {
namespace {

/// Bounds the cost of one speculative allocation; the next one looks further.
constexpr int kMaxPassedOver = 16;

}  // namespace

BlockStore::BlockStore(const KvConfig& config)
    : pools_{BlockPool(config.num_device_blocks), BlockPool(config.num_host_blocks)},
      twins_{std::vector<BlockId>(config.num_device_blocks, kNoBlock),
             std::vector<BlockId>(config.num_host_blocks, kNoBlock)},
      prefixes_(config.block_size, config.num_device_blocks, config.num_host_blocks) {}

TierUsage BlockStore::usage(Tier tier) const {
  const BlockPool& pool = pools_[tier];
  return {pool.num_total(), pool.num_free(), pool.num_used(), pool.num_in_transfer(), pool.num_cached()};
}

BlockId BlockStore::allocate(Tier tier) {
  BlockPool& pool = pools_[tier];
  if (pool.num_free() == pool.num_cached()) {
    FS_CHECK(pool.num_cached() > 0, "no free block is left: the caller did not count");
    forget_content(tier, pool.oldest_cached());
  }
  return *pool.try_allocate();
}

std::optional<BlockId> BlockStore::try_allocate_spare_host() {
  BlockPool& pool = pools_.host;
  if (pool.num_free() > pool.num_cached()) return allocate(Tier::kHost);
  for (int passed_over = 0; passed_over < kMaxPassedOver; ++passed_over) {
    const BlockId oldest = pool.oldest_cached();
    if (oldest == kNoBlock) return std::nullopt;
    const BlockId device = twin(Tier::kHost, oldest);
    if (device == kNoBlock || pools_.device.is_free(device)) return allocate(Tier::kHost);
    pool.touch(oldest);  // what stands behind it may be stale
  }
  return std::nullopt;
}

void BlockStore::release(Tier tier, BlockId block) {
  pools_[tier].release(block);
  separate_if_unwanted(tier, block);
}

void BlockStore::unpin(Tier tier, BlockId block) {
  pools_[tier].unpin(block);
  separate_if_unwanted(tier, block);
}

void BlockStore::join(BlockId device, BlockId host) {
  BlockId& device_twin = twins_.device[index_of(device)];
  BlockId& host_twin = twins_.host[index_of(host)];
  FS_CHECK(device_twin == kNoBlock && host_twin == kNoBlock, "device block ", index_of(device), " or host block ",
           index_of(host), " has a twin already");
  device_twin = host;
  host_twin = device;
  if (prefixes_.contains(Tier::kDevice, device)) {
    prefixes_.attach_copy(Tier::kDevice, device, host);
  } else {
    prefixes_.attach_copy(Tier::kHost, host, device);
  }
  refresh(Tier::kDevice, device);
  refresh(Tier::kHost, host);
}

PrefixCache::Link BlockStore::register_prefix(const PrefixCache::Link& parent, std::span<const std::int32_t> tokens,
                                              BlockId device) {
  const bool named = prefixes_.contains(Tier::kDevice, device);
  const PrefixCache::Insertion insertion = prefixes_.find_or_insert(parent, tokens, device);
  if (insertion.inserted && !named) {
    if (const BlockId host = twin(Tier::kDevice, device); host != kNoBlock) {
      prefixes_.attach_copy(Tier::kDevice, device, host);
    }
    refresh(Tier::kDevice, device);
  }
  return insertion.link;
}

void BlockStore::clear_prefixes() {
  for (const Tier tier : {Tier::kDevice, Tier::kHost}) {
    for (std::int32_t index = 0; index < pools_[tier].num_total(); ++index) {
      const BlockId block{index}, copy = twin(tier, block);
      if (!prefixes_.contains(tier, block) || !pools_[tier].is_free(block)) continue;
      if (copy != kNoBlock && !pools_[other_tier(tier)].is_free(copy)) continue;
      if (copy != kNoBlock) forget_content(other_tier(tier), copy);
      forget_content(tier, block);
    }
  }
}

/// The block will hold something else.
void BlockStore::forget_content(Tier tier, BlockId block) {
  prefixes_.detach(tier, block);
  if (twin(tier, block) != kNoBlock) separate(tier, block);
  refresh(tier, block);
}

void BlockStore::separate(Tier tier, BlockId block) {
  const BlockId copy = twin(tier, block);
  twins_[tier][index_of(block)] = kNoBlock;
  twins_[other_tier(tier)][index_of(copy)] = kNoBlock;
  refresh(tier, block);
  refresh(other_tier(tier), copy);
}

/// Two free twins that are no prefix can never be asked for again.
void BlockStore::separate_if_unwanted(Tier tier, BlockId block) {
  const BlockId copy = twin(tier, block);
  if (copy == kNoBlock || prefixes_.contains(tier, block)) return;
  if (pools_[tier].is_free(block) && pools_[other_tier(tier)].is_free(copy)) separate(tier, block);
}

void BlockStore::refresh(Tier tier, BlockId block) {
  pools_[tier].set_cached(block, twin(tier, block) != kNoBlock || prefixes_.contains(tier, block));
}

void BlockStore::check_integrity() const {
  prefixes_.check_integrity();
  for (const Tier tier : {Tier::kDevice, Tier::kHost}) {
    const BlockPool& pool = pools_[tier];
    pool.check_integrity();
    for (std::int32_t index = 0; index < pool.num_total(); ++index) {
      const BlockId block{index}, copy = twin(tier, block);
      const bool named = prefixes_.contains(tier, block);
      const BlockState state = pool.state(block);
      FS_CHECK((state == BlockState::kCached) == (pool.is_free(block) && (named || copy != kNoBlock)), "block ", index,
               " of tier ", static_cast<int>(tier), " is wrongly cached or wrongly not");
      if (copy == kNoBlock) continue;
      FS_CHECK(twin(other_tier(tier), copy) == block, "block ", index, " and its twin ", index_of(copy), " disagree");
      FS_CHECK(prefixes_.same_entry(tier, block, copy), "twins ", index, " and ", index_of(copy), " differ in prefix");
      FS_CHECK(named || !pool.is_free(block) || !pools_[other_tier(tier)].is_free(copy), "free twins ", index, " and ",
               index_of(copy), " are kept although no request can use them");
    }
  }
}

}  // namespace fastserve::kv
