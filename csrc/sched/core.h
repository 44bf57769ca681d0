#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <numeric>
#include <vector>

#include "kv/kv_manager.h"
#include "sched/block_rate.h"
#include "sched/latency_model.h"
#include "sched/policies/policy.h"
#include "sched/requests/request.h"
#include "sched/scheduler_config.h"
#include "sched/stats.h"

namespace fastserve::sched {

/// What the parts of one scheduler share. The parts are used by its owner's thread only.
struct SchedulerCore {
  SchedulerConfig config;
  kv::KvManager& kv;
  const kv::KvConfig& kv_config = kv.config();
  LatencyModel& latency;
  std::unique_ptr<Policy> policy;
  SchedulerStats stats{};  // counters only; the state fields are filled in on demand
  std::int64_t step = 0;   // of the plan being made, or the next one
  double now_s = 0.0;
  BlockRate freed{};             // by requests that ended, less what others grew by
  std::int64_t num_started = 0;  // requests that have begun and are neither finished nor held
  std::array<std::int64_t, kNumRequestStates> num_in_state{};

  std::int32_t block_size() const { return kv_config.block_size; }
  std::int32_t num_device_blocks() const { return kv_config.num_device_blocks; }
  std::int32_t num_free() const { return kv.num_free(kv::Tier::kDevice); }
  std::int32_t blocks_for(std::int32_t num_tokens) const { return (num_tokens + block_size() - 1) / block_size(); }
  /// Blocks beyond `blocks` that a start keeps for its first output.
  std::int32_t first_growth(std::int32_t blocks) const { return blocks < num_device_blocks() ? 1 : 0; }
  double upload_s(std::int32_t num_blocks) const { return num_blocks * config.block_bytes / config.upload_bytes_per_s; }
  double offload_s(std::int32_t num_blocks) const {
    return num_blocks * config.block_bytes / config.offload_bytes_per_s;
  }
  std::int64_t num_in(RequestState state) const { return num_in_state[static_cast<std::size_t>(state)]; }
  std::int64_t num_unfinished() const {
    return std::accumulate(num_in_state.begin(), num_in_state.end(), std::int64_t{0}) - num_in(RequestState::kFinished);
  }
  std::int64_t num_residents() const { return num_in(RequestState::kReady) + num_in(RequestState::kRunning); }
  /// Requests whose KV is on the host, or on its way there or back.
  std::int64_t num_away() const {
    return num_in(RequestState::kOffloading) + num_in(RequestState::kParked) + num_in(RequestState::kUploading);
  }
  /// Predicted seconds that recomputing the KV of the request adds to the iterations.
  double recompute_s(const Request& request) const {
    return latency.prefill_s(request.num_computed(), 0) - latency.prefill_s(0, 0);
  }

  /// It has begun and is to go on, or not.
  void count_started(Request& request, bool started) {
    if (started == request.counts_as_started()) return;
    num_started += started ? 1 : -1;
    request.count_as_started(started);
    policy->follow(request, Policy::Event::kCounted, now_s);
  }

  /// Change the state, and with it the place in the queues.
  void move(Request& request, RequestState next) {
    const Place from = request.place();
    --num_in_state[static_cast<std::size_t>(request.state())];
    request.move_to(next, now_s);
    ++num_in_state[static_cast<std::size_t>(next)];
    if (request.queue().queued && request.place() != from) policy->order().change_place(request, from);
  }
};

}  // namespace fastserve::sched
