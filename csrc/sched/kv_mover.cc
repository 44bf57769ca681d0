#include "sched/kv_mover.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace fastserve::sched {

using kv::Residency;

void KvMover::begin(Request& request) {
  const kv::SeqId seq{next_seq_++};
  request.KvState::begin(seq,
                         static_cast<std::int32_t>(core_.kv.begin(seq, request.tokens(), request.options.cache_salt)));
  if (core_.kv.residency(request.seq()) == Residency::kDevice) refresh_blocks(request);
}

void KvMover::end(Request& request) {
  if (!request.has_kv()) return;
  waste_upload(request);
  forget_transit(request);
  core_.kv.end(request.seq());
  request.KvState::end();
}

bool KvMover::start(Request& request, std::int32_t spare_blocks) {
  const std::int32_t free_before = core_.num_free();
  begin(request);
  const bool on_host = core_.kv.residency(request.seq()) == Residency::kHost;
  const std::int32_t blocks = core_.blocks_for(request.length());
  const std::int32_t need =
      core_.first_growth(blocks) +
      (on_host ? core_.kv.num_blocks_to_upload(request.seq()) + blocks - core_.blocks_for(request.num_computed())
               : core_.kv.num_blocks_to_reserve(request.seq(), request.length()));
  const std::int32_t free = core_.num_free();
  if (need + spare_blocks > free) {
    end(request);
    request.lose_computed();
    request.expect_start(std::min(need + free_before - free, core_.num_device_blocks()), core_.step + kProbeInterval);
    return false;
  }
  core_.count_started(request, true);
  request.note(Decision::kStarted, core_.now_s);
  if (on_host) {
    core_.move(request, RequestState::kParked);
    request.adopt_host_prefix();
    FS_CHECK(upload(request, Decision::kUploadedOnDemand), "request ", request.id, " was measured to fit but does not");
    return true;
  }
  FS_CHECK(reserve(request, request.length()), "request ", request.id, " was measured to fit but does not");
  core_.move(request, RequestState::kReady);
  return true;
}

void KvMover::leave_out(Request& request) {
  request.leave_out(core_.step);
  request.note(Decision::kLeftOut, core_.now_s);
}

void KvMover::refresh_blocks(Request& request) { request.hold_blocks(core_.kv.device_blocks(request.seq())); }

bool KvMover::reserve(Request& request, std::int32_t num_tokens) {
  const std::int32_t had = request.num_blocks();
  if (core_.blocks_for(num_tokens) <= had) return true;
  if (!core_.kv.try_reserve(request.seq(), num_tokens)) return false;
  refresh_blocks(request);
  if (had > 0) core_.freed.add(had - request.num_blocks(), core_.now_s);
  return true;
}

void KvMover::commit(Request& request, std::int32_t num_tokens) {
  request.write(num_tokens);
  core_.kv.commit_computed(request.seq(), request.tokens(), request.num_computed());
}

void KvMover::issue(kv::Transfer transfer) {
  if (transfer.source.empty()) return;
  in_flight_.insert(static_cast<std::int64_t>(transfer.id));
  const auto num_blocks = static_cast<std::int64_t>(transfer.source.size());
  const double bytes = static_cast<double>(num_blocks) * core_.config.block_bytes;
  switch (transfer.kind) {
    case kv::TransferKind::kOffload: core_.stats.offload_blocks += num_blocks; break;
    case kv::TransferKind::kMirror: core_.stats.mirror_blocks += num_blocks; break;
    case kv::TransferKind::kUpload: core_.stats.upload_blocks += num_blocks; break;
  }
  (transfer.kind == kv::TransferKind::kUpload ? core_.stats.upload_bytes : core_.stats.offload_bytes) += bytes;
  planned_.push_back(std::move(transfer));
}

bool KvMover::offload(Request& request) {
  const std::int32_t num_blocks = core_.kv.num_releasable_blocks(request.seq());
  auto transfer = core_.kv.try_offload(request.seq());
  if (!transfer) return false;
  waste_upload(request);
  const bool moving = core_.kv.residency(request.seq()) == Residency::kOffloading;
  request.leave_device();
  core_.move(request, moving ? RequestState::kOffloading : RequestState::kParked);
  if (moving) {
    transit_.push_back({&request, num_blocks});
    blocks_leaving_ += num_blocks;
  }
  issue(std::move(*transfer));
  count_park(request, moving ? Decision::kOffloaded : Decision::kOffloadedMirrored);
  return true;
}

void KvMover::evict(Request& request, Decision how) {
  if (how == Decision::kOffloaded) {
    if (offload(request)) return;
    how = Decision::kDroppedHostFull;
  }
  waste_upload(request);
  drop(request, how);
  count_park(request, how);
}

void KvMover::drop(Request& request, Decision why) {
  core_.stats.dropped_s += core_.recompute_s(request);
  end(request);
  request.lose_computed();
  request.expect_start(std::min(core_.blocks_for(request.length()) + 1, core_.num_device_blocks()), core_.step);
  if (request.num_outputs() == 0) core_.count_started(request, false);
  core_.move(request, RequestState::kWaiting);
  request.note(why, core_.now_s);
}

void KvMover::count_park(Request& request, Decision how) {
  auto& stats = core_.stats;
  ++stats.parks;
  request.count_park(core_.step);
  request.note(how, core_.now_s);
  if (how == Decision::kOffloaded || how == Decision::kOffloadedMirrored) {
    ++stats.swaps;
    stats.swaps_without_copy += how == Decision::kOffloadedMirrored;
    return;
  }
  ++stats.recomputes;
  stats.recomputes_by_mode += how == Decision::kDroppedByMode;
  stats.recomputes_cheaper += how == Decision::kDroppedCheaper;
  stats.recomputes_host_full += how == Decision::kDroppedHostFull;
  stats.recomputes_no_host += how == Decision::kDroppedNoHost;
  stats.recomputes_copy_failed += how == Decision::kDroppedCopyFailed;
  stats.recomputes_empty += how == Decision::kDroppedEmpty;
}

bool KvMover::upload(Request& request, Decision why) {
  auto transfer = core_.kv.try_upload(request.seq());
  if (!transfer) return false;
  request.begin_upload();
  request.note(why, core_.now_s);
  if (core_.kv.residency(request.seq()) == Residency::kUploading) {
    core_.move(request, RequestState::kUploading);
    if (why == Decision::kUploadedOnDemand) request.note_late_upload();
    transit_.push_back({&request, 0});
  } else {
    core_.move(request, RequestState::kReady);
    request.settle();
    refresh_blocks(request);
  }
  issue(std::move(*transfer));
  return true;
}

bool KvMover::mirror(Request& request, std::int32_t max_blocks) {
  auto transfer = core_.kv.try_mirror(request.seq(), max_blocks);
  if (!transfer) return false;
  issue(std::move(*transfer));
  return true;
}

bool KvMover::forget_transit(const Request& request) {
  const auto at = std::ranges::find(transit_, &request, &Transit::request);
  if (at == transit_.end()) return false;
  blocks_leaving_ -= at->num_blocks;
  transit_.erase(at);
  return true;
}

void KvMover::complete(std::span<const std::int64_t> ids, std::span<const std::uint8_t> ok) {
  FS_REQUIRE(ids.size() == ok.size(), "one ok flag per transfer: got ", ids.size(), " ids and ", ok.size(), " flags");
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const bool known = in_flight_.contains(ids[i]) &&
                       std::ranges::find(ids.first(i), ids[i]) == ids.begin() + static_cast<std::ptrdiff_t>(i);
    FS_REQUIRE(known, "transfer ", ids[i], " is not in flight: report each transfer of a plan once");
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    core_.kv.complete(kv::TransferId{ids[i]}, ok[i] != 0);
    core_.stats.failed_transfers += ok[i] == 0;
    in_flight_.erase(ids[i]);
  }
  if (ids.empty()) return;
  std::vector<Request*> settled;
  for (const Transit& transit : transit_) {
    const Residency residency = core_.kv.residency(transit.request->seq());
    if (residency == Residency::kDevice || residency == Residency::kHost) settled.push_back(transit.request);
  }
  for (Request* request : settled) settle(*request);
}

void KvMover::settle(Request& request) {
  forget_transit(request);
  const bool on_device = core_.kv.residency(request.seq()) == Residency::kDevice;
  const bool was_upload = request.state() == RequestState::kUploading;
  core_.move(request, on_device ? RequestState::kReady : RequestState::kParked);
  if (on_device) refresh_blocks(request);
  if (on_device == was_upload) return request.settle();
  request.note(Decision::kCopyFailed, core_.now_s);
  if (!was_upload) return request.fail_offload();
  waste_upload(request);
  // A prefix adopted from the host may hold device blocks as well, which no request could claim while it is parked.
  if (request.fail_upload() >= kMaxFailedUploads || request.holds_host_prefix())
    drop(request, Decision::kDroppedCopyFailed);
}

void KvMover::waste_upload(Request& request) { core_.stats.uploads_wasted += request.KvState::waste_upload(); }

void KvMover::count_pick(Request& request) {
  if (!request.use_upload()) return;
  ++(request.upload_late() ? core_.stats.uploads_late : core_.stats.uploads_hit);
}

void KvMover::check_integrity() const {
  std::int32_t leaving = 0;
  for (const Transit& transit : transit_) {
    const RequestState state = transit.request->state();
    FS_CHECK(state == RequestState::kOffloading || state == RequestState::kUploading, "request ", transit.request->id,
             " is followed as in transit but is ", name_of(state));
    leaving += transit.num_blocks;
  }
  FS_CHECK(leaving == blocks_leaving_, "blocks leaving the device are ", leaving, ", counted ", blocks_leaving_);
}

}  // namespace fastserve::sched
