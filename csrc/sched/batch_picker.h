#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
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

/// What has to be done before the picker can go on, since its next decision depends on what comes of it.
struct Move {
  enum class Kind : std::uint8_t {
    kReserve,   // device blocks for all its tokens; may fail
    kStart,     // its KV, beside `spare_blocks` that stay free; may fail
    kUpload,    // its KV, which is on the host; may fail
    kEvict,     // its KV, as `how` says
    kLeaveOut,  // of this plan, to evict it once no plan in flight contains it
    kExpect,    // its upload: its turn came first
    kBlock,     // it wants memory and does not get it
  };
  Kind kind = Kind::kReserve;
  Request* request = nullptr;
  Decision how = Decision::kNone;
  std::int32_t spare_blocks = 0;
};

/// What a plan consists of. Valid until the next plan is begun.
struct Batch {
  std::span<const Pick> picks;     // rows with one token first
  std::int32_t growth_blocks = 0;  // that its rows and those in flight will grow by in the next H iterations
  bool evicted = false;
  bool blocked = false;  // a request wanted memory and did not get it
};

/// Decides what the batch consists of, and whose KV has to move for it; changes no request, no KV and no order. Walks the
/// order of the policy, takes what fits, and asks for memory.
///
/// - Slots go in order. Tokens go level by level; within a level decodes before prefill chunks, and where two prefills
///   want tokens the first takes at most half of what is left.
/// - Memory: a request on the device goes on when it gets the blocks it grows by. One that needs memory to start (it is
///   waiting or parked) gets its whole prompt and one growth block beyond what the rows before it will grow by; when it
///   cannot, no request behind it starts (no overtaking), and residents behind it are evicted, just enough.
/// - Nothing in a plan in flight is evicted: a victim there is left out of this plan first.
/// - With several stages a request that is sampled in flight is passed over, so that all tokens of a plan are known, and a
///   plan takes its share of slots and tokens. A request whose prompt is being read goes on with its next chunk.
class BatchPicker {
 public:
  static constexpr double kDebtMargin = 0.05;  // of the device's blocks
  /// Where KV has nowhere to go but away, a start leaves room for what the others grow by in so many iterations, at most
  /// one block in so many: else their growth drops one of them.
  static constexpr std::int64_t kGrowthIterations = 32;
  static constexpr std::int32_t kGrowthPart = 10;
  static constexpr std::size_t kWalkStride = 32;  // members of a level fetched at once

  BatchPicker(const SchedulerCore& core, SwapPlanner& planner, const KvMover& mover)
      : core_(core), policy_(*core.policy), planner_(planner), mover_(mover) {}

  /// Requests that may be started and unfinished when a turn takes so long: with more, not all streams could get one
  /// within the longest pause. No limit under a policy that does not limit streams.
  std::int64_t most_started(double turn_s) const;

  /// Begin a plan. `may_evict`: to start others; growth may always evict. To start others KV is dropped
  /// only as far as computing it again takes no more than `drop_budget_s`; the first in order may overdraw a full budget,
  /// and takes what it needs from those of the classes behind its own. Within a class memory changes hands where that
  /// pays, see Exchange. `growth_blocks`: that the plans in flight will grow by.
  void begin(bool may_evict, double drop_budget_s, bool budget_full, std::int32_t growth_blocks);
  /// The next move. The caller carries it out before the next call and passes whether it succeeded. None: the batch is
  /// complete.
  std::optional<Move> next(bool succeeded);
  Batch batch() const { return {picks_, growth_blocks_, evicted_, blocked_}; }

 private:
  enum class Need : std::uint8_t { kGrowth, kAdmission };
  /// What the request that is considered waits for: the outcome of a move, or evictions.
  enum class Stage : std::uint8_t { kDone, kReserve, kStart, kUpload, kRoom };
  using Asked = std::optional<Move>;

  /// The next request in the order of the policy; null: the batch is full, or no request is left.
  Request* walk();
  Asked consider(Request& request);
  Asked resume(Request& request, bool succeeded);
  Asked pick_resident(Request& request);
  Asked pick_parked(Request& request);
  Asked pick_waiting(Request& request);
  Asked ask(Move::Kind kind, Stage then);
  Asked ask_for_memory();
  Asked make_room(std::int32_t need, Need why);
  Asked use_room();
  Asked next_eviction();
  Asked block(std::int32_t claim);
  void add_resident(Request& request);
  /// No further stream may begin before some of those there are have ended.
  bool has_streams_enough(const Request& before) const;
  std::int32_t room_for_growth() const;
  /// While the drop budget is overdrawn, a request starts only if this many blocks stay free: growth would drop more.
  std::int32_t debt_margin_blocks() const {
    return static_cast<std::int32_t>(kDebtMargin * static_cast<double>(core_.num_device_blocks()));
  }
  /// No request before it runs. The first candidate must be scheduled, so that the engine always makes progress.
  bool is_first() const { return picks_.empty() && prefills_.empty() && level_prefills_.empty() && !passed_in_flight_; }
  bool is_pipeline() const { return core_.config.num_stages > 1; }
  /// Requests that this plan may have. The stages share the slots, and as many requests as there are.
  std::int32_t slots_of_plan() const;
  /// Blocks that are free, or will be without further evictions.
  std::int32_t have() const { return core_.num_free() + mover_.blocks_leaving() + left_out_ - claimed_; }
  bool usable(const SwapPlanner::Victim& victim, const Request& behind) const;
  std::span<const SwapPlanner::Victim> victims_for(const Request& behind, bool even_capped);
  void choose_victims(bool even_capped);
  /// The second prefill of a level gets tokens even where the first wants all of them.
  bool has_tokens_for_prefill() const {
    const std::int32_t left = std::min(budget_ - level_decodes_ - kept_for_decodes(), prefill_budget_);
    return left > level_wanted_ || (left >= 2 && level_prefills_.size() == 1);
  }
  /// Tokens for residents that come later in the order: a decode costs an iteration next to nothing, a pause costs more.
  std::int32_t kept_for_decodes() const;
  /// Tokens of the prefills that the policy allows in an iteration.
  std::int32_t prefill_budget() const;
  void close_level();

  const SchedulerCore& core_;
  const Policy& policy_;
  SwapPlanner& planner_;
  const KvMover& mover_;
  // Where all KV is on the device, an iteration may follow a turn and be as long; where KV moves, the turns are long.
  std::int64_t most_started_resident_ = most_started(2 * Mlfq::kResidentTurnS);
  std::int64_t most_started_moving_ = most_started(Mlfq::kTurnS);

  std::array<Request*, kWalkStride> run_{};  // of one level, being walked
  std::size_t run_size_ = 0;
  std::size_t run_at_ = 0;
  Request* request_ = nullptr;  // being considered
  Stage stage_ = Stage::kDone;
  Need why_ = Need::kGrowth;
  std::int32_t need_ = 0;  // blocks that it waits for
  bool made_room_ = false;
  bool took_from_capped_ = false;  // to make it

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
  bool passed_in_flight_ = false;                   // a request that was walked over is sampled in another stage
  std::span<const SwapPlanner::Victim> victims_;    // of this step, best first; some may be used up
  std::vector<const SwapPlanner::Victim*> chosen_;  // of them, to go now
  std::size_t num_gone_ = 0;                        // of those
  bool victims_even_capped_ = false;
  std::array<bool, 2> exhausted_{};  // no request is left to evict; second: even among those parked too often
  PlaceMask places_ = kAnyPlace;
  bool may_evict_ = false;
  double drop_budget_s_ = 0.0;
  bool budget_full_ = false;
  bool evicted_ = false;
  bool blocked_ = false;
};

}  // namespace fastserve::sched
