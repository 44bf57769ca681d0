#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "sched/core.h"
#include "sched/exchange.h"
#include "sched/kv_mover.h"
#include "sched/policies/mlfq.h"
#include "sched/swap_planner.h"

namespace fastserve::sched {

/// A row of the plan being made: `count` tokens of the request from position `start` on.
struct Pick {
  Request* request = nullptr;
  std::int32_t start = 0;
  std::int32_t count = 0;
};

/// Fills the batch: walks the order of the policy, takes what fits, and gets memory for it.
///
/// - Slots go in order. Tokens go level by level; within a level decodes before prefill chunks, and where two prefills
///   want tokens the first takes at most half of what is left.
/// - Memory: a request on the device goes on when it gets the blocks it grows by. One that needs memory to start (it is
///   waiting or parked) gets its whole prompt and one growth block beyond what the rows before it will grow by; when it
///   cannot, nobody behind it starts (no overtaking), and residents behind it are evicted, just enough.
/// - Nothing in a plan in flight is evicted: a victim there is left out of this plan first.
class BatchPicker {
 public:
  /// A start that failed for want of memory is measured anew (O(prompt)) after this many steps: what it shares with the
  /// prefix cache may have changed.
  static constexpr std::int64_t kProbeInterval = 64;
  static constexpr double kDebtMargin = 0.05;  // of the device's blocks
  /// Where KV has nowhere to go but away, a start leaves room for what the others grow by in so many iterations, at most
  /// one block in so many: else their growth drops one of them.
  static constexpr std::int64_t kGrowthIterations = 32;
  static constexpr std::int32_t kGrowthPart = 10;
  static constexpr std::size_t kWalkStride = 32;  // members of a level fetched at once

  BatchPicker(SchedulerCore& core, SwapPlanner& planner, KvMover& mover)
      : core_(core), planner_(planner), mover_(mover) {}

  /// Requests that may be started and unfinished when a turn takes so long: with more, not all streams could get one
  /// within the longest pause. No limit but under `learned`: `slo` has a finer one, the others keep no such pause.
  static std::int64_t most_started(const SchedulerConfig& config, double turn_s);

  /// Rows with one token first. `may_evict`: to start others; growth may always evict. To start others KV is dropped
  /// only as far as computing it again takes no more than `drop_budget_s`; the first in order may overdraw a full budget,
  /// and takes what it needs from those of the classes behind its own. Within a class memory changes hands where that
  /// pays, see Exchange. Valid until the next call.
  std::span<const Pick> pick(bool may_evict, double drop_budget_s, bool budget_full);

  /// Blocks the picked rows will grow by in the next H iterations.
  std::int32_t growth_blocks() const { return growth_blocks_; }
  bool evicted() const { return evicted_; }
  /// Somebody wanted memory and did not get it.
  bool blocked() const { return blocked_; }

 private:
  enum class Need : std::uint8_t { kGrowth, kAdmission };

  /// Consider the requests in the order of the policy until the batch is full.
  void walk();
  void consider(Request& request);
  void pick_resident(Request& request);
  void pick_parked(Request& request);
  void pick_waiting(Request& request);
  bool try_start(Request& request);
  /// No further stream may begin before some of those there are have ended.
  bool has_streams_enough(const Request& before) const;
  std::int32_t room_for_growth() const;
  /// Below this many free blocks nobody starts while more was dropped than may be, lest its growth drop more.
  std::int32_t debt_margin_blocks() const {
    return static_cast<std::int32_t>(kDebtMargin * static_cast<double>(core_.num_device_blocks()));
  }
  /// Nobody is picked yet: whoever is looked at must get on.
  bool is_first() const { return picks_.empty() && prefills_.empty() && level_prefills_.empty(); }
  bool make_room(Request& behind, std::int32_t need, Need why);
  bool usable(const SwapPlanner::Victim& victim, const Request& behind) const;
  std::span<const SwapPlanner::Victim> victims_for(const Request& behind, bool even_capped);
  void free_behind(Request& behind, std::int32_t need, std::int32_t have, Need why, bool even_capped);
  /// The second prefill of a level gets tokens even where the first wants all of them.
  bool has_tokens_for_prefill() const {
    const std::int32_t left = std::min(budget_ - level_decodes_ - kept_for_decodes(), prefill_budget_);
    return left > level_wanted_ || (left >= 2 && level_prefills_.size() == 1);
  }
  /// Tokens for residents that come later in the order: a decode costs an iteration next to nothing, a pause costs more.
  std::int32_t kept_for_decodes() const;
  void block(Request& request, std::int32_t claim);
  /// Tokens of the prefills that the policy allows in an iteration.
  std::int32_t prefill_budget() const;
  void close_level();
  void add(Request& request, std::int32_t count);
  /// Blocks beyond `tokens` that a start keeps for its first output.
  std::int32_t first_growth(std::int32_t blocks) const { return blocks < core_.num_device_blocks() ? 1 : 0; }

  SchedulerCore& core_;
  SwapPlanner& planner_;
  KvMover& mover_;
  // Where all KV is on the device, an iteration may follow a turn and be as long; where KV moves, the turns are long.
  std::int64_t most_started_resident_ = most_started(core_.config, 2 * Mlfq::kResidentTurnS);
  std::int64_t most_started_moving_ = most_started(core_.config, Mlfq::kTurnS);

  std::vector<Pick> picks_;            // rows with one token
  std::vector<Pick> prefills_;         // rows with more
  std::vector<Pick> level_prefills_;   // of the level being walked; count = tokens wanted
  std::vector<std::int32_t> granted_;  // tokens they get
  const Request* level_ = nullptr;     // a member of that level
  std::int32_t slots_ = 0;
  std::int32_t budget_ = 0;  // tokens left when the level began
  std::int32_t level_decodes_ = 0;
  std::int32_t prefill_budget_ = 0;  // of them that prefills may take
  std::int32_t residents_left_ = 0;  // not considered yet
  std::int32_t level_wanted_ = 0;
  std::int32_t growth_blocks_ = 0;
  std::int32_t claimed_ = 0;                        // blocks that blocked requests wait for
  std::int32_t left_out_ = 0;                       // blocks of victims left out of this plan
  std::span<const SwapPlanner::Victim> victims_;    // of this step, best first; some may be used up
  std::vector<const SwapPlanner::Victim*> chosen_;  // of them, to go now
  bool victims_even_capped_ = false;
  std::array<bool, 2> exhausted_{};  // nobody is left to evict; second: even among those parked too often
  PlaceMask places_ = kAnyPlace;
  bool may_evict_ = false;
  double drop_budget_s_ = 0.0;
  bool budget_full_ = false;
  bool evicted_ = false;
  bool blocked_ = false;
};

}  // namespace fastserve::sched
