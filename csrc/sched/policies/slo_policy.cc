#include "sched/policies/slo_policy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace fastserve::sched {
namespace {

constexpr double kIterationSmoothing = 0.1;
constexpr double kAdjustment = 0.03;  // of the prefill of an iteration
constexpr double kLeastScale = 0.1;
constexpr double kInfinite = std::numeric_limits<double>::infinity();

}  // namespace

SloPolicy::SloPolicy(MlfqConfig mlfq, const SchedulerConfig& config, const LatencyModel& latency)
    : LearnedPolicy(std::move(mlfq), config, latency, kNumLevels),
      ttft_s_(config.ttft_slo_s.value_or(0.0)),
      tpot_s_(config.tpot_slo_s.value_or(0.0)),
      iteration_s_(latency.decode_s(1, 1)) {
  traits_.limits_streams = false;  // may_start has a finer limit
}

double SloPolicy::ttft_s(const Request& request) const {
  return request.options.ttft_slo_s > 0.0 ? request.options.ttft_slo_s : ttft_s_;
}

double SloPolicy::tpot_s(const Request& request) const {
  return request.options.tpot_slo_s > 0.0 ? request.options.tpot_slo_s : tpot_s_;
}

double SloPolicy::ahead_s(const Request& request) const {
  return request.first_output_s() + request.num_outputs() * tpot_s(request) - now_s_;
}

bool SloPolicy::can_meet(const Request& request) const {
  if (node(request).slo.missed_objective || !has_objective(request)) return false;
  const double ttft = ttft_s(request);
  if (request.num_outputs() == 0) return ttft <= 0.0 || now_s_ <= request.arrival_s + ttft;
  return tpot_s(request) > 0.0 && (ttft <= 0.0 || request.first_output_s() - request.arrival_s <= ttft) &&
         ahead_s(request) > -kHopelessS;
}

std::int32_t SloPolicy::home_level(const Request& request, double prefill_s) const {
  if (!can_meet(request)) return LearnedPolicy::home_level(request, prefill_s);
  if (request.num_outputs() == 0)
    return kFresh + std::min(kFreshLevels - 1, LearnedPolicy::home_level(request, prefill_s) - kNumLevels);
  const double enough_s = node(request).level == kAhead ? lead_s() : lead_s() + kAheadS;
  return ahead_s(request) >= enough_s ? kAhead : kUrgent;
}

void SloPolicy::join(Request& request, double now_s, std::optional<double> first_iteration_s) {
  if (first_iteration_s) now_s_ = std::max(now_s_, request.arrival_s);
  LearnedPolicy::join(request, now_s, first_iteration_s);
  watch(request);
}

void SloPolicy::leave(Request& request) {
  unwatch(request);
  LearnedPolicy::leave(request);
}

void SloPolicy::follow(Request& request, Event event, double now_s) {
  if (event == Event::kRuns) unwatch(request);
  LearnedPolicy::follow(request, event, now_s);
  if (event == Event::kRests) watch(request);
  if (event == Event::kCounted) account(request);
}

void SloPolicy::watch(Request& request) {
  if (node(request).slo.watched || !can_meet(request)) return;
  if (request.num_outputs() == 0) {
    if (ttft_s(request) <= 0.0) return;
    node(request).slo.slack_ends_s = request.arrival_s + ttft_s(request) - prefill_left_s(request) - lead_s();
  } else {
    node(request).slo.slack_ends_s = now_s_ + ahead_s(request) - lead_s();
  }
  node(request).slo.watched = true;
  watched_.insert(&request);
}

void SloPolicy::unwatch(Request& request) {
  if (!node(request).slo.watched) return;
  watched_.erase(&request);
  node(request).slo.watched = false;
}

std::int64_t SloPolicy::promote_starving(double now_s) {
  now_s_ = std::max(now_s_, now_s);
  if (last_iteration_s_ > 0.0) {
    iteration_s_ += kIterationSmoothing * (last_iteration_s_ - iteration_s_);
    const bool too_long = num_paced_ > 0 && last_iteration_s_ > longest_iteration_s();
    prefill_scale_ = std::clamp(prefill_scale_ * (too_long ? 1.0 - kAdjustment : 1.0 + kAdjustment), kLeastScale, 1.0);
  }
  last_iteration_s_ = 0.0;
  while (!watched_.empty() && node(**watched_.begin()).slo.slack_ends_s <= now_s_) {
    Request& request = **watched_.begin();
    unwatch(request);
    if (request.num_outputs() == 0) node(request).slo.missed_objective = true;
    account(request);
    if (!node(request).starving) move_to_level(request, home_level(request, prefill_left_s(request)));
  }
  limit_prefills();
  return LearnedPolicy::promote_starving(now_s);
}

bool SloPolicy::charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) {
  last_iteration_s_ = static_cast<double>(iteration_ns) * 1e-9;
  if (node(request).level >= kNumLevels && !node(request).starving)
    return LearnedPolicy::charge(request, iteration_ns, next_iteration_s);
  note_iteration(request, next_iteration_s);
  if (request.length() - request.scheduled() <= 1) decode_s_ = next_iteration_s;
  add_attained(request, iteration_ns);
  if (has_objective(request) && !can_meet(request)) node(request).slo.missed_objective = true;
  account(request);
  const bool served = node(request).starving && is_served(request);
  if (node(request).starving && !served) return false;
  const std::int32_t level = home_level(request, prefill_left_s(request));
  if (!served && level == node(request).level) return false;
  const bool demoted = level > node(request).level;
  move_to_level(request, level);
  return demoted;
}

double SloPolicy::enst_s(const Request& request, double now_s) const {
  const double enst_s = LearnedPolicy::enst_s(request, now_s);
  return node(request).slo.watched && request.num_outputs() > 0
             ? std::min(enst_s, std::max(0.0, node(request).slo.slack_ends_s - now_s))
             : enst_s;
}

void SloPolicy::account(Request& request) {
  const bool paced = request.counts_as_started() && can_meet(request);
  const bool rest = request.counts_as_started() && !paced;
  const double per_s = paced && tpot_s(request) > 0.0 ? 1.0 / tpot_s(request) : 0.0;
  paced_per_s_ += per_s - node(request).slo.paced_per_s;
  num_paced_ += static_cast<int>(per_s > 0.0) - static_cast<int>(node(request).slo.paced_per_s > 0.0);
  num_rest_ += static_cast<int>(rest) - static_cast<int>(node(request).slo.counts_as_rest);
  node(request).slo.paced_per_s = per_s;
  node(request).slo.counts_as_rest = rest;
  limit_prefills();
}

void SloPolicy::limit_prefills() {
  most_prefill_s_ = num_paced_ == 0 ? kInfinite : prefill_scale_ * std::max(0.0, longest_iteration_s() - decode_s_);
}

bool SloPolicy::may_start(const Request& request) const {
  if (request.num_outputs() > 0) return true;
  const auto slots = static_cast<double>(config().batch_slots);
  const double paced = paced_per_s_ * iteration_s_;
  // A turn, with an iteration that may follow it, within the longest pause.
  const double rest_each = std::min(1.0, 2.0 * kResidentTurnS / config().max_pause_s);
  if (!can_meet(request)) {
    const double most = std::max(0.0, slots - paced) + kRestShare * slots / rest_each;
    return static_cast<double>(num_rest_) + 1.0 <= std::max(1.0, most);
  }
  const double rest = std::min(static_cast<double>(num_rest_) * rest_each, kRestShare * slots);
  const double own = tpot_s(request) > 0.0 ? iteration_s_ / tpot_s(request) : 1.0;
  return paced == 0.0 || paced + rest + own <= kFill * slots;
}

}  // namespace fastserve::sched
