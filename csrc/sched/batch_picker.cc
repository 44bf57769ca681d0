#include "sched/batch_picker.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "base/error.h"

namespace fastserve::sched {

std::int64_t BatchPicker::most_started(double turn_s) const {
  const SchedulerConfig& config = core_.config;
  const auto seats = static_cast<double>(Mlfq::stream_seats(config.max_num_seqs));
  const double turns = seats * config.max_pause_s / turn_s;  // that begin within the longest pause
  return policy_.traits().limits_streams && turns < 1e9 ? config.max_num_seqs + static_cast<std::int64_t>(turns)
                                                        : std::numeric_limits<std::int64_t>::max();
}

std::int32_t BatchPicker::slots_of_plan() const {
  const auto stages = std::int64_t{core_.config.num_stages};
  const auto slots = std::int64_t{core_.config.max_num_seqs};
  if (!is_pipeline()) return core_.config.max_num_seqs;
  const std::int64_t share = (std::min(slots, core_.num_unfinished()) + stages - 1) / stages;
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(slots - core_.num_in(RequestState::kRunning), 0, share));
}

void BatchPicker::begin(bool may_evict, double drop_budget_s, bool budget_full, std::int32_t growth_blocks) {
  picks_.clear();
  prefills_.clear();
  level_prefills_.clear();
  level_ = nullptr;
  run_size_ = run_at_ = 0;
  request_ = nullptr;
  stage_ = Stage::kDone;
  slots_ = slots_of_plan();
  budget_ = (core_.config.max_num_batched_tokens + core_.config.num_stages - 1) / core_.config.num_stages;
  level_decodes_ = level_wanted_ = claimed_ = left_out_ = 0;
  growth_blocks_ = growth_blocks;
  passed_in_flight_ = false;
  residents_left_ =
      static_cast<std::int32_t>(is_pipeline() ? core_.num_in(RequestState::kReady) : core_.num_residents());
  prefill_budget_ = prefill_budget();
  places_ = kAnyPlace;
  may_evict_ = may_evict;
  drop_budget_s_ = drop_budget_s;
  budget_full_ = budget_full;
  evicted_ = blocked_ = false;
  victims_ = {};
  chosen_.clear();
  num_gone_ = 0;
  exhausted_ = {};
}

std::optional<Move> BatchPicker::next(bool succeeded) {
  for (;;) {
    while (stage_ != Stage::kDone) {
      if (num_gone_ < chosen_.size()) return next_eviction();
      if (Asked move = resume(*request_, succeeded)) return move;
    }
    request_ = walk();
    if (!request_) break;
    if (Asked move = consider(*request_)) return move;
  }
  close_level();
  picks_.insert(picks_.end(), prefills_.begin(), prefills_.end());
  prefills_.clear();
  return std::nullopt;
}

Request* BatchPicker::walk() {
  for (;;) {
    while (run_at_ < run_size_) {
      if (slots_ == 0 || level_decodes_ >= budget_) return nullptr;
      const std::size_t at = run_at_++;
      if (at + Request::kPrefetchDistance < run_size_) run_[at + Request::kPrefetchDistance]->prefetch();
      if ((places_ & mask_of(run_[at]->place())) != 0) return run_[at];  // those before it may have changed both
    }
    run_size_ = policy_.order().next_run(run_size_ > 0 ? run_[run_size_ - 1] : nullptr, places_, run_);
    run_at_ = 0;
    if (run_size_ == 0) return nullptr;
    if (level_ && !policy_.order().same_level(*level_, *run_[0])) close_level();
    level_ = run_[0];
  }
}

BatchPicker::Asked BatchPicker::consider(Request& request) {
  switch (request.place()) {
    case Place::kResident: return pick_resident(request);
    case Place::kHost: return pick_parked(request);
    case Place::kWaiting: return pick_waiting(request);
    case Place::kTransit: break;
  }
  if (request.state() != RequestState::kUploading) return std::nullopt;
  return ask(Move::Kind::kExpect, Stage::kDone);  // it would be picked now
}

BatchPicker::Asked BatchPicker::resume(Request& request, bool succeeded) {
  const Stage stage = std::exchange(stage_, Stage::kDone);
  if (stage == Stage::kRoom) return use_room();
  if (succeeded) {
    if (stage != Stage::kReserve && request.state() == RequestState::kReady) return pick_resident(request);
    if (stage == Stage::kReserve) add_resident(request);
    return std::nullopt;
  }
  if (made_room_ || stage == Stage::kUpload) return block(need_);
  if (stage == Stage::kReserve)
    return make_room(core_.kv.num_blocks_to_reserve(request.seq(), request.length()), Need::kGrowth);
  return make_room(request.start_need() + growth_blocks_, Need::kAdmission);
}

BatchPicker::Asked BatchPicker::ask(Move::Kind kind, Stage then) {
  stage_ = then;
  return Move{.kind = kind, .request = request_, .spare_blocks = growth_blocks_};
}

BatchPicker::Asked BatchPicker::ask_for_memory() {
  switch (request_->place()) {
    case Place::kResident: return ask(Move::Kind::kReserve, Stage::kReserve);
    case Place::kHost: return ask(Move::Kind::kUpload, Stage::kUpload);
    default: return ask(Move::Kind::kStart, Stage::kStart);
  }
}

std::int32_t BatchPicker::prefill_budget() const {
  constexpr std::int32_t kLeast = 64;
  const double most_s = policy_.most_prefill_s();
  const std::int32_t chunk = core_.config.max_prefill_chunk_tokens;
  const double chunk_s = core_.latency.prefill_s(chunk, 0) - core_.latency.prefill_s(0, 0);
  if (!(most_s < 1e6) || chunk_s <= 0.0) return budget_;
  const double tokens = chunk * most_s / chunk_s;
  return std::min(budget_, std::max(kLeast, static_cast<std::int32_t>(std::min(tokens, 1e9))));
}

std::int32_t BatchPicker::kept_for_decodes() const {
  return std::min({slots_, std::max(0, residents_left_), budget_ / 2});
}

BatchPicker::Asked BatchPicker::pick_resident(Request& request) {
  if (is_pipeline() && request.samples_in_flight()) {
    passed_in_flight_ = true;
    return std::nullopt;
  }
  residents_left_ -= !is_pipeline() || request.plans_in_flight() == 0;
  const bool leaving =
      request.ending() != FinishReason::kNone || request.park_requested() || request.left_out_step() == core_.step;
  if (leaving || request.ends_in_flight()) return std::nullopt;
  const std::int32_t remaining = request.length() - request.scheduled();
  FS_CHECK(remaining >= 1, "request ", request.id, " has nothing left to compute");
  if (remaining == 1 ? level_decodes_ >= budget_ : !has_tokens_for_prefill()) return std::nullopt;
  made_room_ = false;
  if (core_.blocks_for(request.length()) > request.num_blocks()) return ask(Move::Kind::kReserve, Stage::kReserve);
  add_resident(request);
  return std::nullopt;
}

BatchPicker::Asked BatchPicker::pick_parked(Request& request) {
  if (request.parked_step() == core_.step) return block(0);
  const std::int32_t to_upload = core_.kv.num_blocks_to_upload(request.seq());
  const std::int32_t blocks = core_.blocks_for(request.length());
  const std::int32_t to_grow = std::max(core_.first_growth(blocks), blocks - core_.blocks_for(request.num_computed()));
  need_ = std::min(to_upload + to_grow, core_.num_device_blocks()) + growth_blocks_;
  if (core_.num_free() < need_) return make_room(need_, Need::kAdmission);
  return ask(Move::Kind::kUpload, Stage::kUpload);
}

BatchPicker::Asked BatchPicker::pick_waiting(Request& request) {
  if (!has_tokens_for_prefill()) {
    places_ = mask_of(Place::kResident);
    return std::nullopt;
  }
  if (request.parked_step() == core_.step) return block(0);
  // Streams that lost their KV wait among the promoted, if anywhere.
  if (has_streams_enough(request) || !policy_.may_start(request)) {
    if (!request.queue().starving) places_ &= static_cast<PlaceMask>(~mask_of(Place::kWaiting));
    return std::nullopt;
  }
  const std::int32_t free = core_.num_free() - growth_blocks_ - request.start_need();
  if (drop_budget_s_ < 0.0 && free < debt_margin_blocks() && !is_first()) return block(0);
  if (free < room_for_growth() && !is_first() && request.num_outputs() == 0) return block(0);
  made_room_ = false;
  const bool known_short = free < 0 && core_.step < request.next_probe_step();
  return known_short ? make_room(request.start_need() + growth_blocks_, Need::kAdmission)
                     : ask(Move::Kind::kStart, Stage::kStart);
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
  const bool moving = policy_.order().next(nullptr, kMoving) != nullptr;
  if (!moving && core_.num_started < most_started_resident_) return false;
  constexpr PlaceMask kStarted = mask_of(Place::kResident) | mask_of(Place::kTransit) | mask_of(Place::kHost);
  const Request* const last = policy_.order().prev(nullptr, kStarted);
  // With all of them away nothing would run; and those of a class behind its own do not count.
  return last && last->options.priority <= before.options.priority;
}

BatchPicker::Asked BatchPicker::make_room(std::int32_t need, Need why) {
  need_ = need;
  why_ = why;
  took_from_capped_ = false;
  stage_ = Stage::kRoom;
  if (have() < need && (why == Need::kGrowth || may_evict_)) choose_victims(false);
  return std::nullopt;
}

BatchPicker::Asked BatchPicker::use_room() {
  if (have() < need_ && why_ == Need::kGrowth && !std::exchange(took_from_capped_, true)) {
    stage_ = Stage::kRoom;
    choose_victims(true);
    return std::nullopt;
  }
  if (core_.num_free() < need_) return block(need_);
  made_room_ = true;
  return ask_for_memory();
}

bool BatchPicker::usable(const SwapPlanner::Victim& victim, const Request& behind) const {
  const Request& request = *victim.request;
  const bool gone = request.place() != Place::kResident || request.left_out_step() == core_.step;
  return !gone && policy_.order().before(behind, request);
}

/// The candidates are ranked once for all requests that lack memory in this step; ranked again only when they run out.
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

void BatchPicker::choose_victims(bool even_capped) {
  // Blocks that victims share count for none of them, so their sum is a lower bound; who waits for such blocks waits
  // until one of their holders ends.
  const Request& behind = *request_;
  const bool first = is_first();
  const bool grows = why_ == Need::kGrowth;
  // Classes are strict: the first in order takes from those behind its class what it needs.
  const auto outranked = [&](const SwapPlanner::Victim& victim) {
    return first && policy_.traits().strict_classes && victim.request->options.priority > behind.options.priority;
  };
  std::int32_t blocks = have();
  Exchange exchange(core_, planner_, behind, need_ - blocks);
  bool pays = true;
  chosen_.clear();
  num_gone_ = 0;
  for (const auto& victim : victims_for(behind, even_capped)) {
    if (blocks >= need_) break;
    if (!usable(victim, behind) || (victim.num_blocks == 0 && !(first && grows))) continue;
    if (!grows && !outranked(victim)) {
      if (!exchange.allows(victim)) continue;
      exchange.add(victim);
      pays = exchange.pays();
    }
    blocks += victim.num_blocks;
    chosen_.push_back(&victim);
  }
  // Evicting for a start that would still not fit only costs.
  const bool in_vain = !grows && (blocks < need_ || !pays);
  const bool too_dear = exchange.dropped_s() > std::max(0.0, drop_budget_s_) && !(first && budget_full_);
  if (in_vain || too_dear) chosen_.clear();
}

BatchPicker::Asked BatchPicker::next_eviction() {
  const SwapPlanner::Victim& victim = *chosen_[num_gone_++];
  drop_budget_s_ -= planner_.recompute_s(victim);
  if (victim.in_flight) {
    left_out_ += victim.num_blocks;
    return Move{.kind = Move::Kind::kLeaveOut, .request = victim.request};
  }
  evicted_ = true;
  return Move{.kind = Move::Kind::kEvict, .request = victim.request, .how = planner_.how_to_evict(*victim.request)};
}

BatchPicker::Asked BatchPicker::block(std::int32_t claim) {
  places_ = mask_of(Place::kResident);
  blocked_ = true;
  claimed_ += claim;
  return ask(Move::Kind::kBlock, Stage::kDone);
}

void BatchPicker::add_resident(Request& request) {
  --slots_;
  growth_blocks_ += planner_.growth(request, request.length());
  const std::int32_t remaining = request.length() - request.scheduled();
  if (remaining == 1) {
    ++level_decodes_;
    picks_.push_back({&request, request.scheduled(), 1});
  } else {
    const std::int32_t count = std::min(remaining, core_.config.max_prefill_chunk_tokens);
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
