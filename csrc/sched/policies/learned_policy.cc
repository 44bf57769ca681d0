#include "sched/policies/learned_policy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"

namespace fastserve::sched {
namespace {

constexpr double kLargestIndexOctaves = 27.0;  // that of a request that is sure to go on to 11,000 tokens
constexpr double kMostLevels = 64.0;

double levels_per_octave(double level_ratio) {
  return std::min(1.0 / std::log2(level_ratio), (kMostLevels - 1.0) / kLargestIndexOctaves);
}

}  // namespace

MlfqConfig LearnedPolicy::with_levels(MlfqConfig mlfq, double level_ratio, std::int32_t first_level) {
  FS_REQUIRE(!mlfq.quanta_s.empty() && std::isfinite(mlfq.quanta_s.back()),
             "the policy learned needs finite quanta: leave first_quantum_s at its default");
  FS_REQUIRE(level_ratio > 1.0, "the ratio of two levels must be above 1, got ", level_ratio);
  const double per_octave = levels_per_octave(level_ratio);
  const auto wanted = static_cast<std::size_t>(per_octave * kLargestIndexOctaves) + 1;
  mlfq.num_levels = static_cast<std::int32_t>(mlfq.quanta_s.size());
  // The index grows about with the square of the tokens produced, the time in a level with the tokens.
  while (mlfq.quanta_s.size() < wanted) {
    const double tokens = std::exp2(static_cast<double>(mlfq.quanta_s.size()) / per_octave / 2.0);
    mlfq.quanta_s.push_back(std::max(mlfq.quanta_s.back(), mlfq.quanta_s.front() * tokens));
  }
  mlfq.quanta_s.insert(mlfq.quanta_s.begin(), static_cast<std::size_t>(first_level), mlfq.quanta_s.front());
  return mlfq;
}

LearnedPolicy::LearnedPolicy(MlfqConfig mlfq, const SchedulerConfig& config, const LatencyModel& latency,
                             std::int32_t first_level)
    : Mlfq(with_levels(std::move(mlfq), config.quantum_ratio, first_level)),
      levels_per_octave_(levels_per_octave(config.quantum_ratio)),
      first_level_(first_level),
      latency_(latency),
      classes_(config.length_half_life, config.min_length_observations),
      token_s_(latency.decode_s(1, 1)) {
  traits_.keeps_max_pause = traits_.limits_streams = true;
}

double LearnedPolicy::prefill_left_s(const Request& request) const {
  const std::int32_t remaining = request.length() - request.scheduled();
  return remaining > 1 ? latency_.prefill_s(remaining, request.scheduled()) - latency_.prefill_s(0, 0) : 0.0;
}

double LearnedPolicy::index_tokens(const Request& request, double prefill_s) const {
  return node(request)
      .learned.lengths->index(request.num_prompt())
      .index(node(request).learned.length_bin, prefill_s / token_s_, request.max_total() - request.num_prompt());
}

std::int32_t LearnedPolicy::level_of(double index_tokens) const {
  const double level = std::log2(std::max(index_tokens, 1.0)) * levels_per_octave_;
  const auto last = static_cast<std::int32_t>(config().quanta_s.size()) - 1;
  return first_level_ + static_cast<std::int32_t>(std::min(level, static_cast<double>(last - first_level_)));
}

std::int32_t LearnedPolicy::home_level(const Request& request, double prefill_s) const {
  return follows_index_ ? level_of(index_tokens(request, prefill_s)) : first_level_;
}

void LearnedPolicy::join(Request& request, double now_s, std::optional<double> first_iteration_s) {
  // What it knew of a request that comes back may have made way meanwhile.
  LengthClass& lengths = classes_.of(request.options.length_class);
  node(request).learned.lengths = &lengths;
  if (!first_iteration_s) {
    lengths.enters(request.num_prompt(), node(request).learned.length_bin);
    return Mlfq::join(request, now_s, std::nullopt);
  }
  node(request).learned.length_bin = 0;
  node(request).learned.next_length_tokens = 1;
  lengths.enters(request.num_prompt(), 0);
  follows_index();
  const double prefill_s = std::max(0.0, *first_iteration_s - latency_.prefill_s(0, 0));  // rides on decode iterations
  node(request).first_iteration_s = *first_iteration_s;
  join_level(request, now_s, home_level(request, prefill_s));
}

void LearnedPolicy::leave(Request& request) {
  Mlfq::leave(request);
  LengthClass& lengths = *node(request).learned.lengths;
  lengths.leaves(request.num_prompt(), node(request).learned.length_bin);
  const std::int32_t tokens = request.num_answer_tokens();
  // The limit is the length of those that nothing else can end.
  const bool ends_at_limit = request.options.ignore_eos && request.options.stop_token_ids.empty();
  switch (request.finish_reason()) {
    case FinishReason::kNone: return;  // held
    case FinishReason::kStop: return lengths.ended(request.num_prompt(), tokens);
    case FinishReason::kLength:
      return ends_at_limit ? lengths.ended(request.num_prompt(), tokens)
                           : lengths.limited(request.num_prompt(), tokens);
    case FinishReason::kAbort: return lengths.aborted(request.num_prompt(), tokens);
    default: return lengths.censored(request.num_prompt(), tokens);
  }
}

void LearnedPolicy::note_progress(Request& request) {
  const std::int32_t bin = LengthBins::of(request.num_outputs());
  node(request).learned.lengths->moves(request.num_prompt(), node(request).learned.length_bin, bin);
  node(request).learned.length_bin = bin;
  node(request).learned.next_length_tokens = LengthBins::edge(bin + 1);
}

bool LearnedPolicy::note_iteration(Request& request, double next_iteration_s) {
  ++num_charged_;
  if (request.num_outputs() < node(request).learned.next_length_tokens) return false;
  note_progress(request);
  if (request.length() - request.scheduled() <= 1) token_s_ = next_iteration_s / static_cast<double>(num_rows_);
  return true;
}

bool LearnedPolicy::charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) {
  const bool entered_bin = note_iteration(request, next_iteration_s);
  if (!follows_index_ && !node(request).starving) return false;
  add_attained(request, iteration_ns);
  const bool served = node(request).starving && is_served(request);
  if (!served && (node(request).starving || !entered_bin)) return false;
  const std::int32_t level = home_level(request, prefill_left_s(request));
  if (!served && level == node(request).level) return false;
  const bool demoted = level > node(request).level;
  move_to_level(request, level);
  return demoted;
}

std::int64_t LearnedPolicy::promote_starving(double now_s) {
  if (num_charged_ > 0) num_rows_ = std::exchange(num_charged_, 0);
  // Of those that stand in order of arrival, nothing overtakes anything.
  if (!follows_index() && first_level_ == 0) return 0;
  return Mlfq::promote_starving(now_s);
}

bool LearnedPolicy::follows_index() {
  if (follows_index_ || !classes_.learned()) return follows_index_;
  follows_index_ = true;
  std::vector<Request*> requests;
  for (Request* r = order().next(nullptr, kAnyPlace); r; r = order().next(r, kAnyPlace)) requests.push_back(r);
  for (Request* r : requests)
    if (!node(*r).starving) move_to_level(*r, home_level(*r, prefill_left_s(*r)));
  return true;
}

double LearnedPolicy::enst_s(const Request& request, double now_s) const {
  if (follows_index_ || !node(request).queued || request.plans_in_flight() > 0) return Mlfq::enst_s(request, now_s);
  return order().num_ahead(request) == 0 ? 0.0 : std::numeric_limits<double>::infinity();  // no request gives way
}

double LearnedPolicy::index_s(const Request& request) const {
  if (!node(request).queued || !follows_index_) return 0.0;
  return token_s_ * index_tokens(request, prefill_left_s(request));
}

std::vector<LengthClassView> LearnedPolicy::length_classes() const {
  std::vector<LengthClassView> views;
  for (const LengthClass* const lengths : classes_.all()) views.push_back(view_of(*lengths));
  return views;
}

LengthClassView LearnedPolicy::view_of(const LengthClass& lengths) const {
  LengthClassView view{.key = lengths.key(),
                       .num_observations = lengths.num_observations(),
                       .num_live = lengths.num_live(),
                       .learned = follows_index_,
                       .quantiles = {},
                       .levels = {}};
  if (!view.learned) return view;
  for (std::size_t i = 0; i < view.quantiles.size(); ++i)
    view.quantiles[i] = lengths.index().quantile(LengthClassView::kQuantiles[i]);
  for (std::int32_t bin = 0; bin < LengthBins::kNum; ++bin) {
    const double index = lengths.index().index(bin);
    const std::int32_t level = level_of(index);
    if (view.levels.empty() || level > view.levels.back().level)
      view.levels.push_back({LengthBins::edge(bin), level, index});
  }
  return view;
}

}  // namespace fastserve::sched
