#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "sched/policies/learned_policy.h"
#include "sched/scheduler.h"

namespace fastserve::sched {

void Scheduler::set_link_rates(double offload_bytes_per_s, double upload_bytes_per_s) {
  for (const double rate : {offload_bytes_per_s, upload_bytes_per_s})
    FS_REQUIRE(rate > 0.0 && std::isfinite(rate), "a link rate must be above 0 bytes per second, got ", rate);
  core_.config.offload_bytes_per_s = offload_bytes_per_s;
  core_.config.upload_bytes_per_s = upload_bytes_per_s;
}

std::int64_t Scheduler::num_running() const {
  if (core_.config.num_stages == 1 && !in_flight_.empty())
    return std::ranges::count_if(in_flight_.back().rows, [](const Row& row) { return !row.request->finished(); });
  return core_.num_in(RequestState::kRunning) + std::ranges::count_if(left_batch_, [](const Left& left) {
           return left.request->state() == RequestState::kReady;
         });
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = core_.stats;
  const auto in = [&](RequestState state) { return core_.num_in_state[static_cast<std::size_t>(state)]; };
  stats.num_running = num_running();
  stats.num_waiting = in(RequestState::kWaiting);
  stats.num_parked_device =
      std::max<std::int64_t>(0, in(RequestState::kReady) + in(RequestState::kRunning) - stats.num_running);
  stats.num_parked_host = in(RequestState::kOffloading) + in(RequestState::kParked) + in(RequestState::kUploading);
  stats.level_requests = core_.policy->order().level_counts();
  stats.num_held = table_.num_live();
  for (const std::int32_t count : stats.level_requests) stats.num_held -= count;
  const auto share = [&](kv::Tier tier) {
    const kv::TierUsage usage = core_.kv.usage(tier);
    return usage.total > 0 ? static_cast<double>(usage.used + usage.in_transfer) / usage.total : 0.0;
  };
  stats.device_usage = share(kv::Tier::kDevice);
  stats.host_usage = share(kv::Tier::kHost);
  stats.thrash_governor_trips = governor_.trips();
  return stats;
}

Request& Scheduler::known(std::int64_t request_id) const {
  Request* const request = table_.find(request_id);
  FS_REQUIRE(request, "request ", request_id, " is unknown, or finished and forgotten");
  return *request;
}

std::vector<double> Scheduler::level_quanta_s() const {
  const auto quanta_s = core_.policy->order().level_quanta_s();
  return {quanta_s.begin(), quanta_s.end()};
}

const LearnedPolicy* Scheduler::learned_policy() const {
  return dynamic_cast<const LearnedPolicy*>(core_.policy.get());
}

std::vector<LengthClassView> Scheduler::length_classes() const {
  const auto* const learned = learned_policy();
  return learned ? learned->length_classes() : std::vector<LengthClassView>{};
}

RequestView Scheduler::explain(std::int64_t request_id, double now_s) const {
  const Request& request = known(request_id);
  RequestView view;
  view.state = request.state();
  view.residency = request.has_kv() ? core_.kv.residency(request.seq()) : kv::Residency::kNone;
  view.finish_reason = request.finish_reason();
  view.priority = request.options.priority;
  view.length_class = request.options.length_class;
  view.level = request.queue().level;
  view.starving = request.queue().starving;
  view.held = request.held();
  view.attained_s = static_cast<double>(request.queue().attained_ns) * 1e-9;
  const auto quanta_s = core_.policy->order().level_quanta_s();
  const auto level = static_cast<std::size_t>(request.queue().level);
  view.quantum_s = level < quanta_s.size() ? quanta_s[level] : std::numeric_limits<double>::infinity();
  view.promotions = request.queue().promotions;
  view.prompt_tokens = request.num_prompt();
  view.output_tokens = request.num_outputs();
  view.computed_tokens = request.num_computed();
  view.device_blocks = request.num_blocks();
  view.parks = request.parks();
  view.decisions = request.decisions();
  if (request.queue().queued) {
    view.waited_s = request.plans_in_flight() > 0 ? 0.0 : std::max(0.0, now_s - request.queue().wait_since_s);
    view.enst_s = core_.policy->enst_s(request, now_s);
    view.requests_ahead = core_.policy->order().num_ahead(request);
    if (const auto* const learned = learned_policy()) view.index_s = learned->index_s(request);
  }
  return view;
}

RequestStats Scheduler::request_stats(std::int64_t request_id, double now_s) const {
  return known(request_id).stats(std::max(core_.now_s, now_s));
}

void Scheduler::check_integrity() const {
  core_.policy->order().check_integrity();
  mover_.check_integrity();
  table_.check_slots();
  std::array<std::int64_t, kNumRequestStates> counted{};
  table_.for_each_live([&](const Request& request) {
    ++counted[static_cast<std::size_t>(request.state())];
    FS_CHECK(!request.finished() && request.queue().queued != request.held(), "request ", request.id,
             " is live but in no queue");
    const bool running = request.state() == RequestState::kRunning;
    FS_CHECK(running == (request.plans_in_flight() > 0), "request ", request.id, " is ", name_of(request.state()),
             " and in ", request.plans_in_flight(), " plans");
    const auto residency = request.has_kv() ? core_.kv.residency(request.seq()) : kv::Residency::kNone;
    const kv::Residency expected = [&] {
      switch (request.state()) {
        case RequestState::kWaiting: return kv::Residency::kNone;
        case RequestState::kOffloading: return kv::Residency::kOffloading;
        case RequestState::kParked: return kv::Residency::kHost;
        case RequestState::kUploading: return kv::Residency::kUploading;
        default: return kv::Residency::kDevice;
      }
    }();
    FS_CHECK(residency == expected, "request ", request.id, " is ", name_of(request.state()), ", its KV is elsewhere");
    FS_CHECK(!request.has_kv() || core_.kv.num_computed(request.seq()) == request.num_computed(), "request ",
             request.id, " counts computed tokens that the KV manager does not");
  });
  for (std::size_t state = 0; state < counted.size(); ++state)
    FS_CHECK(state == static_cast<std::size_t>(RequestState::kFinished) || counted[state] == core_.num_in_state[state],
             "the count of requests that are ", name_of(static_cast<RequestState>(state)), " is off");
  core_.kv.check_integrity();
}

}  // namespace fastserve::sched
