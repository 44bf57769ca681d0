#include "sched/scheduler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "sched/policies/policy_factory.h"

namespace fastserve::sched {
namespace {

/// Arrivals may keep at most this share of the device pool free: they are a guess, the KV it would push out is real.
constexpr double kMaxArrivalShare = 0.1;
constexpr double kIterationSmoothing = 0.1;
constexpr double kLongestIterationS = 1e6;  // a request's nanoseconds of all its iterations fit 64 bits
/// Rows that a commit looks ahead: at their requests, and at half that distance at their sequences.
constexpr std::size_t kPrefetchRows = 8;

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, kv::KvManager& kv, LatencyModel& latency,
                     std::unique_ptr<Policy> policy)
    : core_{.config = (config.validate(), config),
            .kv = kv,
            .latency = latency,
            .policy = policy ? std::move(policy) : config.policy->make(config, latency)},
      planner_(core_),
      mover_(core_),
      picker_(core_, planner_, mover_),
      builder_(config.max_plans_in_flight()),
      governor_(config.thrash_parks_per_finish),
      iteration_s_(latency.decode_s(1, 1)) {}

std::shared_ptr<const StepPlan> Scheduler::schedule(double now_s) {
  const std::size_t most = core_.config.max_plans_in_flight();
  FS_REQUIRE(in_flight_.size() < most, "at most ", most, " plans may be in flight: commit step ",
             static_cast<std::int64_t>(in_flight_.front().step), " first");
  set_now(now_s);
  expire_deadlines();
  core_.stats.promotions += core_.policy->promote_starving(core_.now_s);
  process_parks();
  fill_batch();
  const auto picks = picker_.batch().picks;
  note_picks(picks);
  move_kv();
  const StepId step{core_.step};
  auto plan = builder_.build(step, picks, mover_.planned(), core_.block_size());
  mover_.planned().clear();
  in_flight_.push_back(launch(*plan, picks));
  count_preemptions();
  table_.purge(plan->ended_slots);
  ++core_.step;
  return plan;
}

void Scheduler::fill_batch() {
  picker_.begin(!governor_.active(), governor_.drop_budget_s(), governor_.budget_is_full(), growth_in_flight());
  bool succeeded = true;
  while (const auto move = picker_.next(succeeded)) succeeded = carry_out(*move);
}

bool Scheduler::carry_out(const Move& move) {
  Request& request = *move.request;
  switch (move.kind) {
    case Move::Kind::kReserve: return mover_.reserve(request, request.length());
    case Move::Kind::kStart: return mover_.start(request, move.spare_blocks);
    case Move::Kind::kUpload: return mover_.upload(request, Decision::kUploadedOnDemand);
    case Move::Kind::kEvict: mover_.evict(request, move.how); break;
    case Move::Kind::kLeaveOut: mover_.leave_out(request); break;
    case Move::Kind::kExpect: mover_.note_late_upload(request); break;
    case Move::Kind::kBlock: request.note(Decision::kBlockedByMemory, core_.now_s); break;
  }
  return true;
}

void Scheduler::note_picks(std::span<const Pick> picks) {
  for (const Pick& pick : picks) {
    Request& request = *pick.request;
    if (request.last_step() < 0) count_look_up(request);
    core_.stats.recomputed_tokens += request.take_row(core_.step, pick.start, pick.count);
    mover_.count_pick(request);
  }
}

/// Called with the first iteration of a request: starts that found no memory and those after a preemption do not count.
void Scheduler::count_look_up(Request& request) {
  if (!core_.kv_config.enable_prefix_caching) return;
  request.note_cached_tokens(request.num_computed());
  core_.stats.prefix_cache_queries += request.num_prompt();
  core_.stats.prefix_cache_hits += request.num_cached_tokens();
}

Scheduler::InFlight Scheduler::launch(const StepPlan& plan, std::span<const Pick> picks) {
  InFlight flight{.step = plan.step,
                  .rows = std::exchange(spare_rows_, {}),
                  .growth_blocks = picker_.batch().growth_blocks - growth_in_flight(),
                  .shape = plan.shape()};
  flight.rows.clear();
  for (const Pick& pick : picks) {
    Request& request = *pick.request;
    const std::int32_t end = pick.start + pick.count;
    const bool samples = end == request.length();
    flight.rows.push_back({&request, pick.count, samples ? flight.num_samples : -1});
    flight.num_tokens += pick.count;
    request.enter_plan(pick.count, samples ? flight.num_samples : -1);
    flight.num_samples += samples;
    if (request.plans_in_flight() > 1) continue;
    core_.move(request, RequestState::kRunning);
    core_.policy->follow(request, Policy::Event::kRuns, core_.now_s);
  }
  return flight;
}

std::int32_t Scheduler::growth_in_flight() const {
  if (core_.config.num_stages == 1) return 0;  // the next plan repeats the rows of the one in flight
  return std::accumulate(in_flight_.begin(), in_flight_.end(), 0,
                         [](std::int32_t sum, const InFlight& flight) { return sum + flight.growth_blocks; });
}

void Scheduler::count_preemptions() {
  std::erase_if(left_batch_, [this](const Left& left) {
    if (left.request->finished() || left.request->last_step() >= left.step) return true;
    if (core_.step < left.step + core_.config.num_stages - 1) return false;
    left.request->note_preemption();
    ++core_.stats.preemptions;
    return true;
  });
}

std::int32_t Scheduler::watermark_blocks() const {
  const double arrivals = arrivals_.blocks_per_s(core_.now_s) * core_.config.reserve_iterations * iteration_s_;
  const double limit = kMaxArrivalShare * core_.num_device_blocks();
  return picker_.batch().growth_blocks + static_cast<std::int32_t>(std::ceil(std::min(arrivals, limit)));
}

void Scheduler::move_kv() {
  const bool swaps =
      core_.kv.config().num_host_blocks > 0 && core_.config.preemption_mode != PreemptionMode::kRecompute;
  if (!swaps || governor_.active()) return;
  if (core_.config.proactive_offload) {
    const std::int32_t watermark = watermark_blocks();
    const bool evicted = picker_.batch().evicted;
    offload_ahead(watermark);
    // No KV is uploaded ahead of need in a step that evicted some, or while a request before it waits for memory.
    if (!evicted && !picker_.batch().blocked) upload_ahead(watermark);
  }
  if (core_.config.write_through) mirror_idle();
}

void Scheduler::offload_ahead(std::int32_t watermark) {
  std::int32_t have = core_.num_free() + mover_.blocks_leaving();
  if (have >= watermark) return;
  for (const auto& victim : planner_.victims(nullptr, false)) {
    if (have >= watermark) return;
    if (victim.in_flight || victim.num_blocks == 0 || planner_.how_to_evict(*victim.request) != Decision::kOffloaded)
      continue;
    if (!mover_.offload(*victim.request)) return;  // the host is full: dropping KV ahead of need helps no request
    have += victim.num_blocks;
  }
}

void Scheduler::upload_ahead(std::int32_t watermark) {
  const auto margin = static_cast<std::int32_t>(std::ceil(core_.config.upload_margin * core_.num_device_blocks()));
  const auto fits = [&](std::int32_t blocks) { return core_.num_free() - blocks > watermark + margin; };
  if (!fits(0)) return;
  for (Request* request : planner_.uploads()) {
    if (!fits(core_.kv.num_blocks_to_upload(request->seq()) + 1)) return;
    if (!mover_.upload(*request, Decision::kUploadedAhead)) return;
  }
}

void Scheduler::mirror_idle() {
  const double used = 1.0 - static_cast<double>(core_.num_free()) / core_.num_device_blocks();
  if (mover_.num_transfers() > 0 || used < SwapPlanner::kMirrorDeviceUsage) return;
  for (const auto& candidate : planner_.mirrors())
    if (mover_.mirror(*candidate.request, SwapPlanner::kMirrorBlocks)) return;
}

std::deque<Scheduler::InFlight>::iterator Scheduler::in_flight(StepId step) {
  FS_REQUIRE(!in_flight_.empty(), "no plan is in flight: step ", static_cast<std::int64_t>(step),
             " was committed or never made");
  const auto at = std::ranges::find(in_flight_, step, &InFlight::step);
  FS_REQUIRE(at == in_flight_.begin() || (at != in_flight_.end() && at->rows.empty()),
             "plans are committed in order: step ", static_cast<std::int64_t>(in_flight_.front().step),
             " is the oldest in flight, got ", static_cast<std::int64_t>(step));
  return at;
}

/// The part of its time for which the plan had the engine to itself, as far as that is known: plans of several stages
/// overlap.
double Scheduler::take_wall_s(double iteration_s) {
  const double since_s = core_.now_s - std::exchange(last_commit_s_, core_.now_s);
  return core_.config.num_stages == 1 ? iteration_s : std::min(iteration_s, since_s);
}

void Scheduler::commit(StepId step, std::span<const std::int32_t> sampled, double iteration_s, double now_s) {
  const auto at = in_flight(step);
  const auto wanted = static_cast<std::size_t>(at->num_samples);
  FS_REQUIRE(sampled.size() == wanted, "step ", static_cast<std::int64_t>(step), " samples ", wanted, " tokens, got ",
             sampled.size());
  FS_REQUIRE(iteration_s >= 0.0 && iteration_s <= kLongestIterationS, "iteration_s must be between 0 and ",
             kLongestIterationS, " seconds, got ", iteration_s);
  set_now(now_s);
  expire_deadlines();
  InFlight flight = std::move(*at);
  in_flight_.erase(at);
  if (!flight.rows.empty()) {
    core_.latency.observe(flight.shape, iteration_s);
    iteration_s_ += kIterationSmoothing * (iteration_s - iteration_s_);
    ++core_.stats.iterations;
    core_.stats.iteration_tokens += flight.num_tokens;
  }
  const double decodes = std::max(1.0, flight.shape.num_decodes);
  const Commit shared{.sampled = sampled,
                      .iteration_ns = std::llround(iteration_s * 1e9),
                      .next_decode_s = core_.latency.decode_s(decodes, flight.shape.decode_ctx)};
  events_.reserve(events_.request_ids.size() + flight.rows.size());
  for (std::size_t i = 0; i < flight.rows.size(); ++i) {
    prefetch_row(flight.rows, i);
    commit_row(flight.rows[i], shared);
  }
  const auto& stats = core_.stats;
  const double copy_s = std::max(stats.offload_bytes / core_.config.offload_bytes_per_s,
                                 stats.upload_bytes / core_.config.upload_bytes_per_s);
  if (!flight.rows.empty())
    governor_.on_iteration({stats.parks - parks_by_caller_, stats.finished, copy_s, stats.dropped_s}, iteration_s,
                           take_wall_s(iteration_s));
  spare_rows_ = std::move(flight.rows);
}

void Scheduler::prefetch_row(std::span<const Row> rows, std::size_t i) const {
  if (i + kPrefetchRows < rows.size()) rows[i + kPrefetchRows].request->prefetch();
  if (i + kPrefetchRows / 2 < rows.size()) core_.kv.prefetch(rows[i + kPrefetchRows / 2].request->seq());
}

void Scheduler::commit_row(const Row& row, const Commit& commit) {
  Request& request = *row.request;
  request.leave_plan(row.count, row.sample);
  if (request.finished()) {
    if (request.plans_in_flight() == 0) mover_.end(request);
    return;
  }
  if (request.ending() != FinishReason::kNone) return finish(request, request.ending());
  const std::int32_t token = row.sample >= 0 ? commit.sampled[static_cast<std::size_t>(row.sample)] : -1;
  if (row.sample >= 0 && token < 0) return finish(request, FinishReason::kError, row.sample);
  FinishReason reason = FinishReason::kNone;
  if (row.sample >= 0) {
    request.add_output(token, core_.now_s);
    reason = reason_to_finish(request);
  }
  mover_.commit(request, row.count);
  if (reason != FinishReason::kNone) return finish(request, reason, row.sample, token);
  if (row.sample >= 0) push_event(request, FinishReason::kNone, row.sample, token);
  if (request.queue().queued && (request.queue().starving || !governor_.active())) charge(request, commit);
  if (request.plans_in_flight() == 0) leave_batch(request);
}

void Scheduler::charge(Request& request, const Commit& commit) {
  const std::int32_t remaining = request.length() - request.scheduled();
  const bool decodes = remaining <= 1;
  const double next_s = decodes ? commit.next_decode_s
                                : core_.latency.prefill_s(std::min(remaining, core_.config.max_prefill_chunk_tokens),
                                                          request.scheduled());
  if (!core_.policy->charge(request, commit.iteration_ns, next_s)) return;
  ++core_.stats.demotions;
  request.note(Decision::kDemoted, core_.now_s);
}

void Scheduler::leave_batch(Request& request) {
  core_.move(request, RequestState::kReady);
  if (request.queue().queued) core_.policy->follow(request, Policy::Event::kRests, core_.now_s);
  if (in_flight_.empty() || core_.config.num_stages > 1) {
    left_batch_.push_back({&request, core_.step});
  } else {  // the plan that is running now went without it
    request.note_preemption();
    ++core_.stats.preemptions;
  }
}

void Scheduler::complete_transfers(std::span<const std::int64_t> transfer_ids, std::span<const std::uint8_t> ok,
                                   double now_s) {
  set_now(now_s);
  mover_.complete(transfer_ids, ok);
}

void Scheduler::fail_step(StepId step, double now_s) {
  const auto at = in_flight(step);
  set_now(now_s);
  const InFlight flight = std::move(*at);
  in_flight_.erase(at);
  for (const Row& row : flight.rows) {
    Request& request = *row.request;
    request.leave_plan(row.count, row.sample);
    if (!request.finished()) {
      finish(request, request.ending() != FinishReason::kNone ? request.ending() : FinishReason::kError);
    } else if (request.plans_in_flight() == 0) {
      mover_.end(request);
    }
  }
}

StepEvents Scheduler::take_events() {
  table_.mark_delivered();
  return std::exchange(events_, {});
}

}  // namespace fastserve::sched
