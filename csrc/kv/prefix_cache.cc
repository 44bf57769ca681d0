#include "kv/prefix_cache.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/block_hash.h"
#include "base/error.h"

namespace fastserve::kv {
namespace {

constexpr std::size_t kBucketsPerBlock = 4;

/// The shift brings the high bits back down: a change there would else cancel against a change in the next word.
constexpr std::uint64_t step(std::uint64_t state, std::uint64_t word) {
  state = (state ^ word) * kHashMultiplier;
  return state ^ (state >> 32);
}

}  // namespace

std::uint64_t chain_block_hash(std::uint64_t parent_hash, std::span<const std::int32_t> tokens) {
  std::uint64_t state = step(parent_hash, tokens.size());
  std::size_t at = 0;
  for (; at + 1 < tokens.size(); at += 2) {
    const auto low = static_cast<std::uint32_t>(tokens[at]), high = static_cast<std::uint32_t>(tokens[at + 1]);
    state = step(state, low | static_cast<std::uint64_t>(high) << 32);
  }
  if (at < tokens.size()) state = step(state, static_cast<std::uint32_t>(tokens[at]));
  return step(state, kHashSeed);
}

PrefixCache::PrefixCache(std::int32_t block_size, std::int32_t num_device_blocks, std::int32_t num_host_blocks,
                         BlockHashFn hash)
    : block_size_(block_size), hash_(hash) {
  FS_REQUIRE(block_size > 0, "block_size must be positive, got ", block_size);
  const auto num_blocks = static_cast<std::size_t>(num_device_blocks) + static_cast<std::size_t>(num_host_blocks);
  // Sparse: most look-ups are for blocks that are new, and an empty bucket says so without a look at an entry.
  buckets_.assign(std::bit_ceil(std::max<std::size_t>(kBucketsPerBlock * num_blocks, 1)), -1);
  entry_of_.device.assign(num_device_blocks, -1);
  entry_of_.host.assign(num_host_blocks, -1);
  entries_.reserve(num_blocks);  // pages are touched as entries come into use
  tokens_.reserve(num_blocks * block_size);
}

PrefixCache::Link PrefixCache::root(std::uint64_t salt) { return {-1, salt, step(kHashSeed, salt)}; }

std::span<std::int32_t> PrefixCache::tokens_of(std::int32_t entry) {
  return std::span(tokens_).subspan(static_cast<std::size_t>(entry) * block_size_, block_size_);
}

std::span<const std::int32_t> PrefixCache::tokens_of(std::int32_t entry) const {
  return std::span(tokens_).subspan(static_cast<std::size_t>(entry) * block_size_, block_size_);
}

std::int32_t PrefixCache::find_entry(const Link& parent, std::uint64_t hash,
                                     std::span<const std::int32_t> tokens) const {
  std::int32_t entry = buckets_[hash & (buckets_.size() - 1)];
  for (; entry >= 0; entry = entries_[entry].next) {
    const Entry& candidate = entries_[entry];
    if (candidate.hash == hash && candidate.parent_identity == parent.identity &&
        candidate.parent_entry == parent.entry && std::ranges::equal(tokens_of(entry), tokens)) {
      break;
    }
  }
  return entry;
}

std::optional<PrefixCache::Link> PrefixCache::find(const Link& parent, std::span<const std::int32_t> tokens) const {
  const std::int32_t entry = find_entry(parent, hash_(parent.hash, tokens), tokens);
  if (entry < 0) return std::nullopt;
  return link_to(entry);
}

PrefixCache::Insertion PrefixCache::find_or_insert(const Link& parent, std::span<const std::int32_t> tokens,
                                                   BlockId device) {
  FS_REQUIRE(std::ssize(tokens) == block_size_, "only full blocks of ", block_size_, " tokens are cached, got ",
             tokens.size());
  const std::uint64_t hash = hash_(parent.hash, tokens);
  if (const std::int32_t found = find_entry(parent, hash, tokens); found >= 0) return {link_to(found), false};
  std::int32_t entry = entry_of(Tier::kDevice, device);
  if (entry >= 0) {
    unlink_from_bucket(entry);
  } else {
    entry = take_vacant_entry();
    entries_[entry].blocks = {device, kNoBlock};
    entry_of(Tier::kDevice, device) = entry;
  }
  Entry& placed = entries_[entry];
  placed.identity = next_identity_++;
  placed.parent_identity = parent.identity;
  placed.parent_entry = parent.entry;
  placed.hash = hash;
  placed.next = std::exchange(bucket_of(hash), entry);
  std::ranges::copy(tokens, tokens_of(entry).begin());
  return {link_to(entry), true};
}

std::int32_t PrefixCache::take_vacant_entry() {
  ++num_entries_;
  if (vacant_ >= 0) return std::exchange(vacant_, entries_[vacant_].next);
  entries_.emplace_back();
  tokens_.resize(tokens_.size() + block_size_);
  return static_cast<std::int32_t>(entries_.size()) - 1;
}

void PrefixCache::unlink_from_bucket(std::int32_t entry) {
  std::int32_t* link = &bucket_of(entries_[entry].hash);
  while (*link != entry) link = &entries_[*link].next;
  *link = entries_[entry].next;
}

bool PrefixCache::alive(const Link& link) const {
  return link.entry < 0 || entries_[link.entry].identity == link.identity;
}

BlockId PrefixCache::block(const Link& link, Tier tier) const { return entries_[link.entry].blocks[tier]; }

void PrefixCache::attach_copy(Tier known_tier, BlockId known, BlockId copy) {
  const std::int32_t entry = entry_of(known_tier, known);
  if (entry < 0) return;
  const Tier copy_tier = other_tier(known_tier);
  BlockId& slot = entries_[entry].blocks[copy_tier];
  FS_CHECK(slot == kNoBlock && entry_of(copy_tier, copy) < 0, "block ", index_of(copy), " or its entry is taken");
  slot = copy;
  entry_of(copy_tier, copy) = entry;
}

void PrefixCache::detach(Tier tier, BlockId block) {
  const std::int32_t entry = std::exchange(entry_of(tier, block), -1);
  if (entry < 0) return;
  Entry& named = entries_[entry];
  named.blocks[tier] = kNoBlock;
  if (named.blocks.device != kNoBlock || named.blocks.host != kNoBlock) return;
  unlink_from_bucket(entry);
  named.identity = 0;
  named.next = std::exchange(vacant_, entry);
  --num_entries_;
}

void PrefixCache::check_integrity() const {
  std::int32_t listed = 0;
  for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    for (std::int32_t entry = buckets_[bucket]; entry >= 0; entry = entries_[entry].next) {
      FS_CHECK(++listed <= num_entries_, "the index lists more than the ", num_entries_, " entries there are");
      FS_CHECK((entries_[entry].hash & (buckets_.size() - 1)) == bucket, "entry ", entry, " is in the wrong bucket");
      FS_CHECK(entries_[entry].identity != 0, "vacant entry ", entry, " is in the index");
    }
  }
  FS_CHECK(listed == num_entries_, "the index lists ", listed, " of ", num_entries_, " entries");
  std::int32_t live = 0;
  for (std::size_t entry = 0; entry < entries_.size(); ++entry) {
    const Entry& checked = entries_[entry];
    live += checked.identity != 0;
    std::int32_t named = 0;
    for (const Tier tier : {Tier::kDevice, Tier::kHost}) {
      const BlockId block = checked.blocks[tier];
      if (block == kNoBlock) continue;
      ++named;
      FS_CHECK(entry_of(tier, block) == static_cast<std::int32_t>(entry), "block ", index_of(block),
               " does not know its entry ", entry);
    }
    FS_CHECK((named > 0) == (checked.identity != 0), "entry ", entry, " names ", named, " blocks");
  }
  FS_CHECK(live == num_entries_, live, " entries are in use, ", num_entries_, " are counted");
  for (const Tier tier : {Tier::kDevice, Tier::kHost}) {
    const auto& entries = entry_of_[tier];
    for (std::size_t block = 0; block < entries.size(); ++block) {
      if (entries[block] < 0) continue;
      FS_CHECK(index_of(entries_[entries[block]].blocks[tier]) == static_cast<std::int32_t>(block), "block ", block,
               " thinks that entry ", entries[block], " names it");
    }
  }
}

}  // namespace fastserve::kv
