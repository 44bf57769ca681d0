#include "sched/thrash_governor.h"

#include <algorithm>

namespace fastserve::sched {

void ThrashGovernor::on_iteration(const Totals& totals, double iteration_s, double wall_s) {
  const double most_s = kDropShare * static_cast<double>(kWindowIterations) * iteration_s;
  drop_budget_s_ = std::min(drop_budget_s_ + kDropShare * iteration_s - (totals.dropped_s - dropped_s_), most_s);
  budget_is_full_ = drop_budget_s_ >= most_s;
  dropped_s_ = totals.dropped_s;
  if (cooldown_ > 0) {
    if (--cooldown_ == 0) begin_window(totals);
    return;  // what happens without preemption tells nothing about it
  }
  window_s_ += wall_s;
  if (++iterations_ < kWindowIterations) return;
  const auto new_parks = static_cast<double>(totals.parks - before_.parks);
  const auto new_finished = static_cast<double>(std::max<std::int64_t>(1, totals.finished - before_.finished));
  const bool too_many = new_parks > parks_per_finish_ * new_finished;
  const bool too_busy = totals.copy_s - before_.copy_s > kMaxLinkShare * window_s_;
  if (new_parks >= kMinParks && (too_many || too_busy)) {
    cooldown_ = kCooldownIterations;
    ++trips_;
  }
  begin_window(totals);
}

void ThrashGovernor::begin_window(const Totals& totals) {
  iterations_ = 0;
  window_s_ = 0.0;
  before_ = totals;
}

}  // namespace fastserve::sched
