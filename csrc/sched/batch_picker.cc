#include "sched/batch_picker.h"

#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"

namespace fastserve::sched {

std::int64_t BatchPicker::most_started(const SchedulerConfig& config, double turn_s) {
  const auto seats = static_cast<double>(Mlfq::stream_seats(config.max_num_seqs));
  const double turns = seats * config.max_pause_s / turn_s;  // that begin within the longest pause
  return config.policy == PolicyKind::kLearned && turns < 1e9 ? config.max_num_seqs + static_cast<std::int64_t>(turns)
                                                              : std::numeric_limits<std::int64_t>::max();
}

std::span<const Pick> BatchPicker::pick(bool may_evict, double drop_budget_s, bool budget_full) {
  picks_.clear();
  prefills_.clear();
  level_prefills_.clear();
  level_ = nullptr;
  slots_ = core_.config.max_num_seqs;
  budget_ = core_.config.max_num_batched_tokens;
  level_decodes_ = level_wanted_ = growth_blocks_ = claimed_ = left_out_ = 0;
  residents_left_ = static_cast<std::int32_t>(core_.num_residents());
  prefill_budget_ = prefill_budget();
  places_ = kAnyPlace;
  may_evict_ = may_evict;
  drop_budget_s_ = drop_budget_s;
  budget_full_ = budget_full;
  evicted_ = blocked_ = false;
  victims_ = {};
  exhausted_ = {};
  walk();
  close_level();
  picks_.insert(picks_.end(), prefills_.begin(), prefills_.end());
  return picks_;
}

void BatchPicker::walk() {
  std::array<Request*, kWalkStride> run;
  for (Request* last = nullptr;;) {
    const std::size_t count = core_.policy->next_run(last, places_, run);
    if (count == 0) return;
    if (level_ && !core_.policy->same_level(*level_, *run[0])) close_level();
    level_ = run[0];
    for (std::size_t i = 0; i < count; ++i) {
      if (slots_ == 0 || level_decodes_ >= budget_) return;
      if (i + Request::kPrefetchDistance < count) run[i + Request::kPrefetchDistance]->prefetch();
      if ((places_ & mask_of(run[i]->place())) != 0) consider(*run[i]);  // those before it may have changed both
    }
    last = run[count - 1];
  }
}

void BatchPicker::consider(Request& request) {
  switch (request.place()) {
    case Place::kResident: return pick_resident(request);
    case Place::kHost: return pick_parked(request);
    case Place::kWaiting: return pick_waiting(request);
    case Place::kTransit:
      if (request.state() == RequestState::kUploading) mover_.note_late_upload(request);  // it would be picked now
      return;
  }
}

std::int32_t BatchPicker::prefill_budget() const {
  constexpr std::int32_t kLeast = 64;
  const double most_s = core_.policy->most_prefill_s();
  const std::int32_t chunk = core_.config.max_prefill_chunk_tokens;
  const double chunk_s = core_.latency.prefill_s(chunk, 0) - core_.latency.prefill_s(0, 0);
  if (!(most_s < 1e6) || chunk_s <= 0.0) return budget_;
  const double tokens = chunk * most_s / chunk_s;
  return std::min(budget_, std::max(kLeast, static_cast<std::int32_t>(std::min(tokens, 1e9))));
}

std::int32_t BatchPicker::kept_for_decodes() const {
  return std::min({slots_, std::max(0, residents_left_), budget_ / 2});
}

void BatchPicker::pick_resident(Request& request) {
  --residents_left_;
  const bool leaving =
      request.ending() != FinishReason::kNone || request.park_requested() || request.left_out_step() == core_.step;
  if (leaving || request.ends_in_flight()) return;
  const std::int32_t remaining = request.length() - request.scheduled();
  FS_CHECK(remaining >= 1, "request ", request.id, " has nothing left to compute");
  const bool decode = remaining == 1;
  if (decode ? level_decodes_ >= budget_ : !has_tokens_for_prefill()) return;
  if (!mover_.reserve(request, request.length())) {
    const std::int32_t need = core_.kv.num_blocks_to_reserve(request.seq(), request.length());
    if (!make_room(request, need, Need::kGrowth) || !mover_.reserve(request, request.length()))
      return block(request, need);
  }
  add(request, decode ? 1 : std::min(remaining, core_.config.max_prefill_chunk_tokens));
}

void BatchPicker::pick_parked(Request& request) {
  if (request.parked_step() == core_.step) return block(request, 0);
  const std::int32_t to_upload = core_.kv.num_blocks_to_upload(request.seq());
  const std::int32_t blocks = core_.blocks_for(request.length());
  const std::int32_t to_grow = std::max(first_growth(blocks), blocks - core_.blocks_for(request.num_computed()));
  const std::int32_t need = std::min(to_upload + to_grow, core_.num_device_blocks()) + growth_blocks_;
  if (core_.num_free() < need && !make_room(request, need, Need::kAdmission)) return block(request, need);
  if (!mover_.upload(request, Decision::kUploadedOnDemand)) return block(request, need);
  if (request.state() == RequestState::kReady) pick_resident(request);
}

void BatchPicker::pick_waiting(Request& request) {
  if (!has_tokens_for_prefill()) {
    places_ = mask_of(Place::kResident);
    return;
  }
  if (request.parked_step() == core_.step) return block(request, 0);
  // Streams that lost their KV wait among the promoted, if anywhere.
  if (has_streams_enough(request) || !core_.policy->may_start(request)) {
    if (!request.queue().starving) places_ &= static_cast<PlaceMask>(~mask_of(Place::kWaiting));
    return;
  }
  const std::int32_t free = core_.num_free() - growth_blocks_ - request.start_need();
  if (drop_budget_s_ < 0.0 && free < debt_margin_blocks() && !is_first()) return block(request, 0);
  if (free < room_for_growth() && !is_first() && request.num_outputs() == 0) return block(request, 0);
  const auto short_of = [&] { return core_.num_free() < request.start_need() + growth_blocks_; };
  if (!(short_of() && core_.step < request.next_probe_step()) && try_start(request)) return;
  const std::int32_t need = request.start_need() + growth_blocks_;
  if (make_room(request, need, Need::kAdmission) && try_start(request)) return;
  block(request, need);
}

std::int32_t BatchPicker::room_for_growth() const {
  const bool may_move = core_.config.preemption_mode != PreemptionMode::kRecompute;
  if (may_move && core_.kv.num_free(kv::Tier::kHost) > debt_margin_blocks()) return 0;
  const std::int64_t blocks = core_.num_in(RequestState::kRunning) * kGrowthIterations / core_.block_size();
  return static_cast<std::int32_t>(std::min<std::int64_t>(blocks, core_.num_device_blocks() / kGrowthPart));
}

bool BatchPicker::has_streams_enough(const Request& before) const {
  if (before.num_outputs() > 0) return false;
  const std::int64_t most_moving = std::min(most_started_moving_, core_.num_residents() + Exchange::most_away(core_));
  if (core_.num_started < most_moving) return false;
  constexpr PlaceMask kMoving = mask_of(Place::kTransit) | mask_of(Place::kHost);
  const bool moving = core_.policy->next(nullptr, kMoving) != nullptr;
  if (!moving && core_.num_started < most_started_resident_) return false;
  constexpr PlaceMask kStarted = mask_of(Place::kResident) | mask_of(Place::kTransit) | mask_of(Place::kHost);
  const Request* const last = core_.policy->prev(nullptr, kStarted);
  // With all of them away nothing would run; and those of a class behind its own do not count.
  return last && last->options.priority <= before.options.priority;
}

bool BatchPicker::try_start(Request& request) {
  const std::int32_t free_before = core_.num_free();
  mover_.begin(request);
  const bool on_host = core_.kv.residency(request.seq()) == kv::Residency::kHost;
  const std::int32_t blocks = core_.blocks_for(request.length());
  const std::int32_t need =
      first_growth(blocks) +
      (on_host ? core_.kv.num_blocks_to_upload(request.seq()) + blocks - core_.blocks_for(request.num_computed())
               : core_.kv.num_blocks_to_reserve(request.seq(), request.length()));
  const std::int32_t free = core_.num_free();
  if (need + growth_blocks_ > free) {
    mover_.cancel(request);
    mover_.expect_start(request, std::min(need + free_before - free, core_.num_device_blocks()),
                        core_.step + kProbeInterval);
    return false;
  }
  core_.count_started(request, true);
  request.note(Decision::kStarted, core_.now_s);
  if (on_host) {
    core_.move(request, RequestState::kParked);
    mover_.adopt_host_prefix(request);
    FS_CHECK(mover_.upload(request, Decision::kUploadedOnDemand), "request ", request.id,
             " was measured to fit but does not");
    if (request.state() == RequestState::kReady) pick_resident(request);
    return true;
  }
  FS_CHECK(mover_.reserve(request, request.length()), "request ", request.id, " was measured to fit but does not");
  core_.move(request, RequestState::kReady);
  pick_resident(request);
  return true;
}

bool BatchPicker::make_room(Request& behind, std::int32_t need, Need why) {
  const auto have = [&] { return core_.num_free() + mover_.blocks_leaving() + left_out_ - claimed_; };
  if (have() < need && (why == Need::kGrowth || may_evict_)) free_behind(behind, need, have(), why, false);
  if (have() < need && why == Need::kGrowth) free_behind(behind, need, have(), why, true);
  return core_.num_free() >= need;
}

bool BatchPicker::usable(const SwapPlanner::Victim& victim, const Request& behind) const {
  const Request& request = *victim.request;
  const bool gone = request.place() != Place::kResident || request.left_out_step() == core_.step;
  return !gone && core_.policy->before(behind, request);
}

/// The candidates are ranked once and used up by all who are short in this step; ranked anew only when they run out.
std::span<const SwapPlanner::Victim> BatchPicker::victims_for(const Request& behind, bool even_capped) {
  const auto some = [&] {
    return std::ranges::any_of(victims_, [&](const auto& victim) { return usable(victim, behind); });
  };
  if (even_capped == victims_even_capped_ && some()) return victims_;
  bool& exhausted = exhausted_[even_capped ? 1 : 0];
  victims_ = exhausted ? std::span<const SwapPlanner::Victim>{} : planner_.victims(&behind, even_capped);
  victims_even_capped_ = even_capped;
  exhausted = victims_.empty();
  return victims_;
}

void BatchPicker::free_behind(Request& behind, std::int32_t need, std::int32_t have, Need why, bool even_capped) {
  // Blocks that victims share count for none of them, so their sum is a lower bound; who waits for such blocks waits
  // until one of their holders ends.
  const bool first = is_first();
  const bool grows = why == Need::kGrowth;
  // Classes are strict: the first in order takes from those behind its class what it needs.
  const auto outranked = [&](const SwapPlanner::Victim& victim) {
    return first && core_.config.policy != PolicyKind::kFcfs &&
           victim.request->options.priority > behind.options.priority;
  };
  Exchange exchange(core_, planner_, behind, need - have);
  bool pays = true;
  chosen_.clear();
  for (const auto& victim : victims_for(behind, even_capped)) {
    if (have >= need) break;
    if (!usable(victim, behind) || (victim.num_blocks == 0 && !(first && grows))) continue;
    if (!grows && !outranked(victim)) {
      if (!exchange.allows(victim)) continue;
      exchange.add(victim);
      pays = exchange.pays();
    }
    have += victim.num_blocks;
    chosen_.push_back(&victim);
  }
  // Evicting for a start that would still not fit only costs.
  if (!grows && (have < need || !pays)) return;
  if (exchange.dropped_s() > std::max(0.0, drop_budget_s_) && !(first && budget_full_)) return;
  for (const SwapPlanner::Victim* victim : chosen_) {
    Request& request = *victim->request;
    drop_budget_s_ -= exchange.recompute_s(*victim);
    if (victim->in_flight) {
      mover_.leave_out(request);
      request.note(Decision::kLeftOut, core_.now_s);
      left_out_ += victim->num_blocks;
      continue;
    }
    mover_.evict(request, planner_.how_to_evict(request));
    evicted_ = true;
  }
}

void BatchPicker::block(Request& request, std::int32_t claim) {
  places_ = mask_of(Place::kResident);
  blocked_ = true;
  claimed_ += claim;
  request.note(Decision::kBlockedByMemory, core_.now_s);
}

void BatchPicker::add(Request& request, std::int32_t count) {
  --slots_;
  growth_blocks_ += planner_.growth(request, request.length());
  if (request.length() - request.scheduled() == 1) {
    ++level_decodes_;
    picks_.push_back({&request, request.scheduled(), 1});
  } else {
    level_wanted_ += count;
    level_prefills_.push_back({&request, request.scheduled(), count});
  }
}

void BatchPicker::close_level() {
  budget_ -= level_decodes_;
  const std::int32_t most = std::clamp(budget_ - kept_for_decodes(), 0, prefill_budget_);
  std::int32_t left = most;
  for (std::size_t i = 0; i < level_prefills_.size(); ++i) {
    const bool share = i == 0 && level_prefills_.size() > 1;
    granted_.push_back(std::min(level_prefills_[i].count, share ? (left + 1) / 2 : left));
    left -= granted_.back();
  }
  for (std::size_t i = 0; i < level_prefills_.size(); ++i) {
    Pick pick = level_prefills_[i];
    const std::int32_t more =
        i == 0 ? std::min(left, pick.count - granted_[0]) : 0;  // what the others left of its half
    left -= more;
    pick.count = granted_[i] + more;
    if (pick.count == 0) ++slots_;
    if (pick.count == 1) picks_.push_back(pick);
    if (pick.count > 1) prefills_.push_back(pick);
  }
  budget_ -= most - left;
  prefill_budget_ -= most - left;
  granted_.clear();
  level_prefills_.clear();
  level_decodes_ = level_wanted_ = 0;
}

}  // namespace fastserve::sched
