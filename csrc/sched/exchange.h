#pragma once

#include <cstdint>

#include "sched/core.h"
#include "sched/swap_planner.h"

namespace fastserve::sched {

/// Weighs, in seconds that requests wait, whether one of them may take device memory from others behind it.
///
/// - A request is taken to run for the time that its place in the order stands for (QueueNode::work_s).
/// - Gain: it does not wait until memory comes free by itself, at the pace at which requests that end have freed it
///   lately beyond what the others grew by, and at the latest with the end of the shortest of the others.
/// - Cost: each of the others waits while it runs, and for the copies of its KV; what is dropped is computed again in the
///   iterations of all requests.
/// - A stream that paused too long replaces another one, whatever that gains, as far as a copy is enough.
class Exchange {
 public:
  /// The gain must be this many times the cost, so that swapping the two back does not pay as well.
  static constexpr double kMargin = 2.0;
  static constexpr std::int64_t kNoLimit = std::int64_t{1} << 60;

  /// `missing` blocks are wanted for `taker`.
  Exchange(const SchedulerCore& core, const SwapPlanner& planner, const Request& taker, std::int32_t missing);

  /// The victim may be one of the others.
  bool allows(const SwapPlanner::Victim& victim) const;
  void add(const SwapPlanner::Victim& victim);
  /// With all of those added.
  bool pays() const;
  /// Seconds of iterations that computing again takes what was dropped.
  double dropped_s() const { return dropped_s_; }

  /// Streams that may be away from the device while each is to have its turn within the longest pause, on a seat for
  /// every fourth resident. No limit but under the policies that keep max_pause_s.
  static std::int64_t most_away(const SchedulerCore& core);

 private:
  double copy_s(const SwapPlanner::Victim& victim) const {
    return core_.offload_s(victim.num_copies) + core_.upload_s(victim.num_blocks);
  }
  bool may_pause(const SwapPlanner::Victim& victim) const;

  const SchedulerCore& core_;
  const SwapPlanner& planner_;
  bool paused_too_long_;
  double work_s_;
  double gain_s_;
  double cost_s_ = 0.0;
  double dropped_s_ = 0.0;
  std::int64_t num_paused_ = 0;
};

}  // namespace fastserve::sched
