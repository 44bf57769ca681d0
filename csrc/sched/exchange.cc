#include "sched/exchange.h"

#include <algorithm>
#include <limits>

#include "sched/policies/mlfq.h"

namespace fastserve::sched {

Exchange::Exchange(const SchedulerCore& core, const SwapPlanner& planner, const Request& taker, std::int32_t missing)
    : core_(core),
      planner_(planner),
      paused_too_long_(taker.queue().starving && taker.num_outputs() > 0),
      work_s_(taker.queue().work_s) {
  const double freed_per_s = core.freed.blocks_per_s(core.now_s);
  gain_s_ = freed_per_s > 0.0 ? missing / freed_per_s : std::numeric_limits<double>::infinity();
}

std::int64_t Exchange::most_away(const SchedulerCore& core) {
  const SchedulerConfig& config = core.config;
  const std::int64_t residents = std::clamp<std::int64_t>(core.num_residents(), 1, config.max_num_seqs);
  const double turns =
      static_cast<double>(Mlfq::stream_seats(static_cast<std::int32_t>(residents))) * config.max_pause_s / Mlfq::kTurnS;
  return core.policy->traits().keeps_max_pause && turns < 1e9 ? static_cast<std::int64_t>(turns) : kNoLimit;
}

bool Exchange::may_pause(const SwapPlanner::Victim& victim) const {
  if (victim.request->num_outputs() == 0) return true;
  const std::int64_t away = core_.num_away() + num_paused_ + 1;
  if (away > most_away(core_)) return false;
  return !core_.policy->traits().keeps_max_pause ||
         static_cast<double>(away) * copy_s(victim) <= core_.config.max_pause_s;
}

bool Exchange::allows(const SwapPlanner::Victim& victim) const {
  if (paused_too_long_) return victim.request->num_outputs() == 0 || planner_.recompute_s(victim) == 0.0;
  const double work_s = victim.request->queue().work_s;
  return work_s < std::numeric_limits<double>::infinity() && work_s > kMargin * work_s_ && may_pause(victim);
}

void Exchange::add(const SwapPlanner::Victim& victim) {
  const double again_s = planner_.recompute_s(victim);
  const double rows = 1.0 + static_cast<double>(core_.num_in(RequestState::kRunning));
  gain_s_ = std::min(gain_s_, victim.request->queue().work_s);
  cost_s_ += work_s_ + (again_s > 0.0 ? again_s * rows : copy_s(victim));
  dropped_s_ += again_s;
  num_paused_ += victim.request->num_outputs() > 0;
}

bool Exchange::pays() const { return paused_too_long_ || gain_s_ > kMargin * cost_s_; }

}  // namespace fastserve::sched
