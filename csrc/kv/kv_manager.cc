#include "kv/kv_manager.h"

#include <algorithm>
#include <vector>

#include "base/error.h"
#include "kv/block_store.h"
#include "kv/integrity.h"
#include "kv/migration.h"
#include "kv/sequence_table.h"

namespace fastserve::kv {
namespace {

const char* name_of(Residency residency) {
  switch (residency) {
    case Residency::kNone: return "kNone";
    case Residency::kDevice: return "kDevice";
    case Residency::kOffloading: return "kOffloading";
    case Residency::kHost: return "kHost";
    case Residency::kUploading: return "kUploading";
  }
  return "invalid";
}

KvConfig validated(const KvConfig& config) {
  const auto within = [](const char* name, std::int32_t value, std::int32_t low, std::int32_t high,
                         const char* remedy) {
    FS_REQUIRE(value >= low && value <= high, name, " must be between ", low, " and ", high, ", got ", value, remedy);
  };
  constexpr const char* kLargerBlocks = ": ask for fewer, or for larger ones";
  within("block_size", config.block_size, 1, kMaxBlockSize, "");
  within("num_device_blocks", config.num_device_blocks, 1, kMaxBlocks, kLargerBlocks);
  within("num_host_blocks", config.num_host_blocks, 0, kMaxBlocks, kLargerBlocks);
  return config;
}

}  // namespace

class KvManager::Impl {
 public:
  explicit Impl(const KvConfig& config)
      : config_(validated(config)),
        store_(config_),
        migration_(store_, sequences_, config.block_size, config.num_device_blocks) {}

  Sequence& at(SeqId id) {
    Sequence* seq = sequences_.find(id);
    FS_REQUIRE(seq != nullptr, "sequence ", static_cast<std::int64_t>(id), " is not live: begin it first");
    return *seq;
  }

  Sequence& at(SeqId id, Residency needed, const char* method) {
    Sequence& seq = at(id);
    FS_REQUIRE(seq.residency == needed, method, " needs a sequence in ", name_of(needed), ", ",
               static_cast<std::int64_t>(id), " is in ", name_of(seq.residency));
    return seq;
  }

  std::int64_t num_blocks(std::int64_t num_tokens) const {
    FS_REQUIRE(num_tokens >= 0, "num_tokens must not be negative, got ", num_tokens);
    return num_tokens / config_.block_size + (num_tokens % config_.block_size != 0);
  }

  /// Visit the places of the longest cached prefix in order; returns their number.
  template <typename Visit>
  std::int64_t match_prefix(std::span<const std::int32_t> tokens, std::uint64_t salt, Visit&& visit) const {
    FS_REQUIRE(!tokens.empty(), "tokens must not be empty: a sequence starts with a prompt");
    if (!config_.enable_prefix_caching) return 0;
    const std::int64_t max_blocks = (std::ssize(tokens) - 1) / config_.block_size;
    PrefixCache::Link link = PrefixCache::root(salt);
    for (std::int64_t i = 0; i < max_blocks; ++i) {
      const auto next = store_.prefixes().find(link, block_of(tokens, i));
      if (!next) return i;
      link = *next;
      visit(link);
    }
    return max_blocks;
  }

  std::span<const std::int32_t> block_of(std::span<const std::int32_t> tokens, std::int64_t i) const {
    return tokens.subspan(i * config_.block_size, config_.block_size);
  }

  std::int64_t begin(SeqId id, std::span<const std::int32_t> tokens, std::uint64_t salt) {
    FS_REQUIRE(sequences_.find(id) == nullptr, "sequence ", static_cast<std::int64_t>(id), " is live: end it first");
    matched_.clear();
    match_prefix(tokens, salt, [&](const auto& link) { matched_.push_back(link); });
    Sequence& seq = sequences_.add(id);
    seq.salt = salt;
    reset(seq);
    if (matched_.empty()) return 0;
    adopt(seq);
    return seq.num_computed;
  }

  /// Hold the blocks of `matched_`: on the device if all of them are there; else what the host has, on the host, so
  /// that a sequence that waits for its upload keeps as little of the device as possible.
  void adopt(Sequence& seq) {
    const PrefixCache& prefixes = store_.prefixes();
    const bool on_device = std::ranges::all_of(
        matched_, [&](const auto& link) { return prefixes.block(link, Tier::kDevice) != kNoBlock; });
    for (const PrefixCache::Link& link : matched_) {
      const BlockId host = on_device ? kNoBlock : prefixes.block(link, Tier::kHost);
      const BlockId device = host == kNoBlock ? prefixes.block(link, Tier::kDevice) : kNoBlock;
      if (host != kNoBlock) store_.hold(Tier::kHost, host);
      if (device != kNoBlock) store_.hold(Tier::kDevice, device);
      seq.device.push_back(device);
      if (!on_device) seq.host.push_back(host);
    }
    seq.residency = on_device ? Residency::kDevice : Residency::kHost;
    seq.num_registered = static_cast<std::int32_t>(matched_.size());
    seq.num_computed = static_cast<std::int64_t>(matched_.size()) * config_.block_size;
    seq.tail = matched_.back();
  }

  /// Back to kNone; copies under way are not the sequence's any more.
  void reset(Sequence& seq) {
    release_blocks(store_, Tier::kDevice, seq.device);
    release_blocks(store_, Tier::kHost, seq.host);
    seq.life = ++num_lives_;
    seq.residency = Residency::kNone;
    seq.moved = false;
    seq.num_pending = 0;
    seq.num_registered = 0;
    seq.num_computed = 0;
    seq.tail = PrefixCache::root(seq.salt);
  }

  bool try_reserve(SeqId id, std::int64_t num_tokens) {
    Sequence& seq = at(id);
    FS_REQUIRE(seq.residency == Residency::kNone || seq.residency == Residency::kDevice,
               "try_reserve needs a sequence in kNone or kDevice, ", static_cast<std::int64_t>(id), " is in ",
               name_of(seq.residency));
    const std::int64_t wanted = num_blocks(num_tokens);
    const std::int64_t missing = wanted - std::ssize(seq.device);
    if (missing <= 0) return true;
    if (missing > store_.num_free(Tier::kDevice)) return false;
    while (std::ssize(seq.device) < wanted) seq.device.push_back(store_.allocate(Tier::kDevice));
    seq.residency = Residency::kDevice;
    return true;
  }

  void commit_computed(SeqId id, std::span<const std::int32_t> tokens, std::int64_t num_computed) {
    Sequence& seq = at(id, Residency::kDevice, "commit_computed");
    FS_REQUIRE(num_computed >= seq.num_computed, "num_computed must not shrink, ", seq.num_computed,
               " tokens are computed, got ", num_computed, ": drop the sequence to start over");
    FS_REQUIRE(num_computed <= std::ssize(tokens), "num_computed must not pass the ", tokens.size(), " tokens, got ",
               num_computed);
    FS_REQUIRE(num_computed <= std::ssize(seq.device) * config_.block_size, "blocks for ",
               std::ssize(seq.device) * config_.block_size, " tokens are reserved, ", num_computed,
               " are computed: reserve first");
    if (num_computed == seq.num_computed) return;
    if (seq.moved) forget_copy_of_tail(seq);
    seq.num_computed = num_computed;
    const std::int64_t room = std::int64_t{seq.num_registered + 1} * config_.block_size;
    if (config_.enable_prefix_caching && num_computed >= room) register_full_blocks(seq, tokens);
  }

  /// A copy of an unfinished last block lacks what is written to it now.
  void forget_copy_of_tail(const Sequence& seq) {
    const auto computed = static_cast<std::int32_t>(seq.num_computed);  // 32 bits: a division costs half
    const std::int32_t tail = computed / config_.block_size;
    if (computed != tail * config_.block_size) store_.forget_copy(seq.device[tail]);
  }

  /// A block equal to a known one stays the sequence's own but continues the known chain. Should that vanish, the
  /// sequence registers its blocks again from the first.
  void register_full_blocks(Sequence& seq, std::span<const std::int32_t> tokens) {
    if (!store_.prefixes().alive(seq.tail)) {
      seq.tail = PrefixCache::root(seq.salt);
      seq.num_registered = 0;
    }
    const std::int64_t num_full = seq.num_computed / config_.block_size;
    for (std::int64_t i = seq.num_registered; i < num_full; ++i) {
      seq.tail = store_.register_prefix(seq.tail, block_of(tokens, i), seq.device[i]);
    }
    seq.num_registered = static_cast<std::int32_t>(num_full);
  }

  const KvConfig config_;
  BlockStore store_;
  SequenceTable sequences_;
  Migration migration_;
  std::uint64_t num_lives_ = 0;
  std::vector<PrefixCache::Link> matched_;  // scratch of begin
};

KvManager::KvManager(const KvConfig& config) : impl_(std::make_unique<Impl>(config)) {}
KvManager::~KvManager() = default;

const KvConfig& KvManager::config() const { return impl_->config_; }

// --- sequences ---

std::int64_t KvManager::probe_prefix(std::span<const std::int32_t> tokens, std::uint64_t salt) const {
  return impl_->match_prefix(tokens, salt, [](const auto&) {}) * impl_->config_.block_size;
}

std::int64_t KvManager::begin(SeqId seq, std::span<const std::int32_t> tokens, std::uint64_t salt) {
  return impl_->begin(seq, tokens, salt);
}

bool KvManager::try_reserve(SeqId seq, std::int64_t num_tokens) { return impl_->try_reserve(seq, num_tokens); }

void KvManager::commit_computed(SeqId seq, std::span<const std::int32_t> tokens, std::int64_t num_computed) {
  impl_->commit_computed(seq, tokens, num_computed);
}

void KvManager::prefetch(SeqId seq) const {
  if (const Sequence* const found = impl_->sequences_.find(seq)) __builtin_prefetch(found, 1);
}

std::span<const BlockId> KvManager::device_blocks(SeqId seq) const {
  const Sequence& asked = impl_->at(seq);
  FS_REQUIRE(asked.residency == Residency::kDevice || asked.residency == Residency::kOffloading,
             "device_blocks needs a sequence in kDevice or kOffloading, ", static_cast<std::int64_t>(seq), " is in ",
             name_of(asked.residency));
  return asked.device;
}

void KvManager::drop(SeqId seq) { impl_->reset(impl_->at(seq)); }

void KvManager::end(SeqId seq) {
  impl_->reset(impl_->at(seq));
  impl_->sequences_.remove(seq);
}

Residency KvManager::residency(SeqId seq) const { return impl_->at(seq).residency; }

bool KvManager::contains(SeqId seq) const { return impl_->sequences_.find(seq) != nullptr; }

std::int64_t KvManager::num_computed(SeqId seq) const { return impl_->at(seq).num_computed; }

std::int32_t KvManager::num_device_blocks(SeqId seq) const {
  const Sequence& asked = impl_->at(seq);
  const std::ptrdiff_t num_holes = asked.residency == Residency::kHost ? std::ranges::count(asked.device, kNoBlock) : 0;
  return static_cast<std::int32_t>(std::ssize(asked.device) - num_holes);
}

std::int32_t KvManager::num_releasable_blocks(SeqId seq) const {
  const BlockPool& pool = impl_->store_.pool(Tier::kDevice);
  const Sequence& asked = impl_->at(seq);
  if (!impl_->config_.enable_prefix_caching && asked.residency != Residency::kHost)  // nothing is shared, or missing
    return static_cast<std::int32_t>(asked.device.size());
  return static_cast<std::int32_t>(std::ranges::count_if(
      asked.device, [&](BlockId block) { return block != kNoBlock && pool.num_holders(block) == 1; }));
}

std::int32_t KvManager::num_blocks_to_offload(SeqId seq, std::int32_t enough) const {
  return impl_->migration_.num_blocks_to_offload(impl_->at(seq), enough);
}

std::int32_t KvManager::num_blocks_to_upload(SeqId seq) const {
  return impl_->migration_.num_blocks_to_upload(impl_->at(seq));
}

std::int32_t KvManager::num_blocks_to_reserve(SeqId seq, std::int64_t num_tokens) const {
  const std::int64_t missing = impl_->num_blocks(num_tokens) - num_device_blocks(seq);
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(missing, 0, INT32_MAX));
}

// --- copies ---

std::optional<Transfer> KvManager::try_offload(SeqId seq) {
  return impl_->migration_.try_offload(impl_->at(seq, Residency::kDevice, "try_offload"));
}

std::optional<Transfer> KvManager::try_mirror(SeqId seq, std::int32_t max_blocks) {
  FS_REQUIRE(max_blocks > 0, "max_blocks must be positive, got ", max_blocks);
  return impl_->migration_.try_mirror(impl_->at(seq, Residency::kDevice, "try_mirror"), max_blocks);
}

std::optional<Transfer> KvManager::try_upload(SeqId seq) {
  return impl_->migration_.try_upload(impl_->at(seq, Residency::kHost, "try_upload"));
}

void KvManager::complete(TransferId transfer, bool ok) { impl_->migration_.complete(transfer, ok); }

// --- pools ---

TierUsage KvManager::usage(Tier tier) const { return impl_->store_.usage(tier); }

std::int32_t KvManager::num_free(Tier tier) const { return impl_->store_.num_free(tier); }

void KvManager::clear_prefix_cache() { impl_->store_.clear_prefixes(); }

void KvManager::check_integrity() const {
  kv::check_integrity(impl_->store_, impl_->sequences_, impl_->migration_.transfers(), impl_->config_.block_size);
}

}  // namespace fastserve::kv
