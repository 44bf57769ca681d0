#include "kv/migration.h"

#include <utility>

namespace fastserve::kv {

void release_blocks(BlockStore& store, Tier tier, std::vector<BlockId>& blocks) {
  for (; !blocks.empty(); blocks.pop_back()) {
    if (blocks.back() != kNoBlock) store.release(tier, blocks.back());
  }
}

Migration::Migration(BlockStore& store, SequenceTable& sequences, std::int32_t block_size,
                     std::int32_t num_device_blocks)
    : store_(store), sequences_(sequences), block_size_(block_size), transfers_(num_device_blocks) {}

std::int32_t Migration::num_computed_blocks(const Sequence& seq) const {
  return static_cast<std::int32_t>((seq.num_computed + block_size_ - 1) / block_size_);
}

std::int32_t Migration::num_blocks_to_offload(const Sequence& seq, std::int32_t enough) const {
  if (seq.residency != Residency::kDevice) return 0;
  std::int32_t num_copies = 0;
  for (std::int32_t i = num_computed_blocks(seq); i-- > 0 && num_copies < enough;) {
    num_copies += store_.twin(Tier::kDevice, seq.device[i]) == kNoBlock && !transfers_.is_leaving(seq.device[i]);
  }
  return num_copies;
}

std::int32_t Migration::num_blocks_to_upload(const Sequence& seq) const {
  if (seq.residency != Residency::kHost) return 0;
  std::int32_t num_taken = 0;
  for (const BlockId host : seq.host) {
    if (host == kNoBlock) continue;
    const BlockId device = store_.twin(Tier::kHost, host);
    num_taken += device == kNoBlock || store_.is_free(Tier::kDevice, device);
  }
  return num_taken;
}

std::optional<Transfer> Migration::try_offload(Sequence& seq) {
  const std::int32_t num_blocks = num_computed_blocks(seq);
  std::int32_t num_taken = num_blocks_to_offload(seq);
  for (std::int32_t i = 0; i < num_blocks; ++i) {
    const BlockId host = store_.twin(Tier::kDevice, seq.device[i]);
    num_taken += host != kNoBlock && store_.is_free(Tier::kHost, host);
  }
  if (num_taken > store_.num_free(Tier::kHost)) return std::nullopt;

  seq.host.assign(num_blocks, kNoBlock);
  seq.num_pending = 0;
  adopt_host_copies(seq);
  Transfer transfer{transfers_.next_id(), seq.id, TransferKind::kOffload, {}, {}};
  for (std::int32_t i = 0; i < num_blocks; ++i) {
    if (seq.host[i] != kNoBlock) continue;
    seq.host[i] = store_.allocate(Tier::kHost);
    transfer.source.push_back(seq.device[i]);
    transfer.target.push_back(seq.host[i]);
  }
  seq.residency = Residency::kOffloading;
  start_move(seq, transfer);
  return transfer;
}

/// Hold the copies that exist or are being made, before an allocation can take the space of one.
void Migration::adopt_host_copies(Sequence& seq) {
  for (std::size_t i = 0; i < seq.host.size(); ++i) {
    const BlockId device = seq.device[i];
    if (transfers_.is_leaving(device)) {
      seq.host[i] = transfers_.destination(device);
      seq.num_pending += transfers_.wait_for(device, {seq.id, seq.life});
    } else {
      seq.host[i] = store_.twin(Tier::kDevice, device);
    }
    if (seq.host[i] != kNoBlock) store_.hold(Tier::kHost, seq.host[i]);
  }
}

std::optional<Transfer> Migration::try_mirror(const Sequence& seq, std::int32_t max_blocks) {
  Transfer transfer{{}, seq.id, TransferKind::kMirror, {}, {}};
  const auto num_full_blocks = static_cast<std::int32_t>(seq.num_computed / block_size_);
  for (std::int32_t i = 0; i < num_full_blocks && std::ssize(transfer.source) < max_blocks; ++i) {
    const BlockId device = seq.device[i];
    if (store_.twin(Tier::kDevice, device) != kNoBlock || transfers_.is_leaving(device)) continue;
    const std::optional<BlockId> host = store_.try_allocate_spare_host();
    if (!host) break;
    transfer.source.push_back(device);
    transfer.target.push_back(*host);
  }
  if (transfer.source.empty()) return std::nullopt;
  transfer.id = transfers_.next_id();
  start(transfer);
  for (const BlockId host : transfer.target) store_.release(Tier::kHost, host);  // the pin keeps it
  return transfer;
}

std::optional<Transfer> Migration::try_upload(Sequence& seq) {
  if (num_blocks_to_upload(seq) > store_.num_free(Tier::kDevice)) return std::nullopt;
  for (std::size_t i = 0; i < seq.host.size(); ++i) {
    if (seq.host[i] == kNoBlock) continue;
    seq.device[i] = store_.twin(Tier::kHost, seq.host[i]);
    if (seq.device[i] != kNoBlock) store_.hold(Tier::kDevice, seq.device[i]);
  }
  Transfer transfer{transfers_.next_id(), seq.id, TransferKind::kUpload, {}, {}};
  for (std::size_t i = 0; i < seq.host.size(); ++i) {
    if (seq.device[i] != kNoBlock) continue;
    seq.device[i] = store_.allocate(Tier::kDevice);
    transfer.source.push_back(seq.host[i]);
    transfer.target.push_back(seq.device[i]);
  }
  seq.num_pending = 0;
  seq.residency = Residency::kUploading;
  start_move(seq, transfer);
  return transfer;
}

InFlight& Migration::start(const Transfer& transfer) {
  const bool upload = transfer.kind == TransferKind::kUpload;
  const Tier from = upload ? Tier::kHost : Tier::kDevice;
  for (const BlockId block : transfer.source) store_.pin(from, block);
  for (const BlockId block : transfer.target) store_.pin(other_tier(from), block);
  return transfers_.add(transfer);
}

void Migration::start_move(Sequence& seq, const Transfer& transfer) {
  seq.move_failed = false;
  seq.moved = true;
  if (!transfer.source.empty()) {
    start(transfer).waiters.push_back({seq.id, seq.life});
    ++seq.num_pending;
  }
  if (seq.num_pending == 0) finish_move(seq);
}

void Migration::complete(TransferId id, bool ok) {
  const InFlight done = transfers_.take(id);
  const Transfer& transfer = done.transfer;
  const bool upload = transfer.kind == TransferKind::kUpload;
  const Tier from = upload ? Tier::kHost : Tier::kDevice;
  for (std::size_t i = transfer.source.size(); i-- > 0;) {  // last first, see release_blocks
    const BlockId source = transfer.source[i], target = transfer.target[i];
    // Two sequences may have uploaded a shared block at the same time; the first copy is the one that stays.
    if (ok && store_.twin(from, source) == kNoBlock) {
      if (upload) {
        store_.join(target, source);
      } else {
        store_.join(source, target);
      }
    }
    store_.unpin(from, source);
    store_.unpin(other_tier(from), target);
  }
  for (const Waiter& waiter : done.waiters) {
    Sequence* seq = sequences_.find(waiter.seq);
    if (seq == nullptr || seq->life != waiter.life) continue;
    seq->move_failed |= !ok;
    if (--seq->num_pending == 0) finish_move(*seq);
  }
}

void Migration::finish_move(Sequence& seq) {
  if (seq.residency == Residency::kOffloading) {
    finish_offload(seq);
  } else if (seq.move_failed) {
    abandon_upload(seq);
  } else {
    finish_upload(seq);
  }
}

void Migration::finish_offload(Sequence& seq) {
  if (seq.move_failed) {
    release_blocks(store_, Tier::kHost, seq.host);
    seq.residency = Residency::kDevice;
    return;
  }
  release_blocks(store_, Tier::kDevice, seq.device);
  seq.device.assign(seq.host.size(), kNoBlock);
  seq.residency = Residency::kHost;
}

void Migration::finish_upload(Sequence& seq) {
  for (std::size_t i = 0; i < seq.host.size(); ++i) {
    if (seq.host[i] == kNoBlock) continue;
    const BlockId shared = store_.twin(Tier::kHost, seq.host[i]);
    if (shared == seq.device[i]) continue;
    store_.hold(Tier::kDevice, shared);
    store_.release(Tier::kDevice, std::exchange(seq.device[i], shared));
  }
  release_blocks(store_, Tier::kHost, seq.host);
  seq.residency = Residency::kDevice;
}

void Migration::abandon_upload(Sequence& seq) {
  for (std::size_t i = seq.device.size(); i-- > 0;) {
    if (seq.host[i] == kNoBlock) continue;
    store_.release(Tier::kDevice, std::exchange(seq.device[i], kNoBlock));
  }
  seq.residency = Residency::kHost;
}

}  // namespace fastserve::kv
