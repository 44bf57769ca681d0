#include "sched/thrash_governor.h"

#include <algorithm>

namespace fastserve::sched {

void ThrashGovernor::on_iteration(std::int64_t parks, std::int64_t finished, double copy_s, double iteration_s) {
  window_s_ += iteration_s;
  if (cooldown_ > 0) --cooldown_;
  if (++iterations_ < kWindowIterations) return;
  const auto new_parks = static_cast<double>(parks - parks_before_);
  const auto new_finished = static_cast<double>(std::max<std::int64_t>(1, finished - finished_before_));
  const bool too_many = new_parks > parks_per_finish_ * new_finished;
  const bool too_busy = copy_s - copy_before_s_ > kMaxLinkShare * window_s_;
  const bool thrashes = new_parks >= kMinParks && (too_many || too_busy);
  if (cooldown_ == 0) {
    next_cooldown_ = thrashes ? std::min(2 * next_cooldown_, kMaxCooldownIterations) : kCooldownIterations;
    if (thrashes) {
      cooldown_ = next_cooldown_ / 2;
      ++trips_;
    }
  }
  iterations_ = 0;
  window_s_ = 0.0;
  parks_before_ = parks;
  finished_before_ = finished;
  copy_before_s_ = copy_s;
}

}  // namespace fastserve::sched
