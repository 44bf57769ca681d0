#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "kv/kv_manager.h"
#include "sched/batch_picker.h"
#include "sched/block_rate.h"
#include "sched/core.h"
#include "sched/kv_mover.h"
#include "sched/latency_model.h"
#include "sched/lengths/length_class.h"
#include "sched/plans/plan_builder.h"
#include "sched/plans/step_events.h"
#include "sched/plans/step_plan.h"
#include "sched/policies/policy.h"
#include "sched/requests/request.h"
#include "sched/requests/request_table.h"
#include "sched/scheduler_config.h"
#include "sched/stats.h"
#include "sched/swap_planner.h"
#include "sched/thrash_governor.h"

namespace fastserve::sched {

class LearnedPolicy;

/// Policy + KV + swap planner. Sole owner of request state. Single-threaded; owns no clock: the same calls with the
/// same times give the same plans, bit for bit. A time before that of an earlier call counts as the earlier one.
///
/// Order of calls: schedule() -> run it -> commit(). Plans with rows are committed in the order in which they were made.
///
/// With one stage up to two may be in flight (the second is made while the first runs). A row of the second plan whose
/// input token the first one samples carries -1 and a token source. A request found finished at the first commit is
/// ignored in the second, whose blocks stay held until then. With several stages as many plans may be in flight, and all
/// tokens of a plan are known when it is made: a request is in one of them at most, or in several with chunks of its
/// prompt of which the last one samples.
///
/// Requests come and go in scheduler_requests.cc, iterations in scheduler.cc, what the outside may look at in
/// scheduler_views.cc.
class Scheduler {
 public:
  /// `kv` and `latency` outlive the scheduler and are changed through it only. Throws InvalidArgumentError for a
  /// configuration out of range. `policy`: in place of the one that the configuration names.
  Scheduler(const SchedulerConfig& config, kv::KvManager& kv, LatencyModel& latency,
            std::unique_ptr<Policy> policy = nullptr);
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Returns the slot of the workers' request tables in which rows of plans say what they know of it; it is the
  /// request's until a plan lists it in `ended_slots`. Throws InvalidArgumentError when the id is in use, the prompt is empty or longer than max_model_len - 1, or the
  /// request could never fit the device pool. An output that would outgrow the pool ends with kLength where the pool
  /// does.
  std::int32_t add(std::int64_t request_id, std::span<const std::int32_t> prompt, const RequestOptions& options,
                   double now_s);
  /// False when unknown or already finished. The final event comes at once, or with the commit of a plan it is part of.
  bool abort(std::int64_t request_id, double now_s);
  /// The same for a request that cannot go on: it ends with kError.
  bool fail(std::int64_t request_id, double now_s);
  /// Its caller found a stop string in its outputs, of which the first `num_tokens` are its answer: like abort, but it
  /// ends as kStop, and its length is learned from. Throws InvalidArgumentError when it has no such number of outputs.
  bool stop(std::int64_t request_id, std::int32_t num_tokens, double now_s);
  /// Move the KV of a request to the host (or drop it, in recompute mode) as soon as it is in no plan. With `hold` it
  /// stays there until unpark; without, it returns by the usual rules. Idempotent; false when unknown or finished.
  bool park(std::int64_t request_id, bool hold, double now_s);
  /// Undo park; a held request joins the end of its level.
  bool unpark(std::int64_t request_id, double now_s);

  /// Plan the next iteration. The plan may have no rows (nothing can run) and may still carry transfers to start.
  /// Throws InvalidArgumentError when max_plans_in_flight() of the configuration are.
  std::shared_ptr<const StepPlan> schedule(double now_s);
  /// The oldest plan in flight ran: sampled[s] is the token of sampling entry s (negative: there is none, which fails
  /// the request); iteration_s the time that the stages took for it, without waits between them, charged to every row.
  /// A plan without rows need not be the oldest. Throws InvalidArgumentError for another step or a wrong number of
  /// tokens, and changes nothing then.
  void commit(StepId step, std::span<const std::int32_t> sampled, double iteration_s, double now_s);
  /// Transfers ended; one flag per id, 0 = failed. A failed copy costs time, never a request. Throws for an id that is
  /// not in flight, and changes nothing then.
  void complete_transfers(std::span<const std::int64_t> transfer_ids, std::span<const std::uint8_t> ok, double now_s);
  /// Fail every request of the oldest plan in flight, which did not run; their KV is given up.
  void fail_step(StepId step, double now_s);
  StepEvents take_events();
  bool has_events() const { return !events_.request_ids.empty(); }

  void set_link_rates(double offload_bytes_per_s, double upload_bytes_per_s);

  bool has_unfinished() const { return num_unfinished() > 0; }
  std::int64_t num_unfinished() const { return table_.num_live(); }
  std::int64_t num_transfers_in_flight() const { return mover_.num_transfers(); }
  SchedulerStats stats() const;
  /// Quanta of the policy's levels, seconds, from the first level on; infinite where no request is demoted, none for a
  /// policy without levels.
  std::vector<double> level_quanta_s() const;
  /// Both know a finished request until the schedule() that follows the take_events() with its end; they throw
  /// InvalidArgumentError when the request is unknown.
  RequestView explain(std::int64_t request_id, double now_s) const;
  RequestStats request_stats(std::int64_t request_id, double now_s) const;
  /// What the policy `learned` knows of output lengths, by class; empty under another policy.
  std::vector<LengthClassView> length_classes() const;
  /// Throws InternalError naming the first broken invariant, of the KV manager too. O(requests + blocks).
  void check_integrity() const;

 private:
  struct Row {
    Request* request = nullptr;
    std::int32_t count = 0;
    std::int32_t sample = -1;
  };
  struct InFlight {
    StepId step{};
    std::vector<Row> rows;
    std::int32_t num_samples = 0;
    std::int32_t num_tokens = 0;
    std::int32_t growth_blocks = 0;  // see Batch
    IterationShape shape;
  };
  /// A request that was in the batch and is in no plan now.
  struct Left {
    Request* request = nullptr;
    std::int64_t step = 0;  // of the first plan that it could be in
  };
  /// What the rows of one commit share.
  struct Commit {
    std::span<const std::int32_t> sampled;
    std::int64_t iteration_ns = 0;
    double next_decode_s = 0.0;
  };

  void set_now(double now_s);
  bool end_by_caller(std::int64_t request_id, FinishReason reason, double now_s);
  void expire_deadlines();
  /// End it now, or with the next commit of a plan that contains it.
  void end_soon(Request& request, FinishReason reason);
  void finish(Request& request, FinishReason reason, std::int32_t sample = -1, std::int32_t token = -1);
  FinishReason reason_to_finish(const Request& request) const;
  void push_event(const Request& request, FinishReason reason, std::int32_t sample, std::int32_t token);
  void process_parks();
  bool at_rest_after_park(Request& request);

  void move_kv();
  void offload_ahead(std::int32_t watermark);
  void upload_ahead(std::int32_t watermark);
  void mirror_idle();
  std::int32_t watermark_blocks() const;
  void fill_batch();
  /// False when there is no memory for it.
  bool carry_out(const Move& move);
  void note_picks(std::span<const Pick> picks);
  void count_look_up(Request& request);
  InFlight launch(const StepPlan& plan, std::span<const Pick> picks);
  void count_preemptions();
  std::int64_t num_running() const;
  std::int32_t growth_in_flight() const;
  std::deque<InFlight>::iterator in_flight(StepId step);
  double take_wall_s(double iteration_s);
  void prefetch_row(std::span<const Row> rows, std::size_t i) const;
  void commit_row(const Row& row, const Commit& commit);
  void charge(Request& request, const Commit& commit);
  void leave_batch(Request& request);
  Request& known(std::int64_t request_id) const;
  /// Null under a policy that learns nothing.
  const LearnedPolicy* learned_policy() const;

  SchedulerCore core_;
  RequestTable table_;
  SwapPlanner planner_;
  KvMover mover_;
  BatchPicker picker_;
  PlanBuilder builder_;
  ThrashGovernor governor_;
  BlockRate arrivals_;  // that new requests ask for
  std::deque<InFlight> in_flight_;
  std::vector<Row> spare_rows_;          // memory of a committed plan
  std::vector<Left> left_batch_;         // preempted unless one of the next plans, one per stage, takes them
  std::vector<Request*> park_requests_;  // not at rest yet
  std::int64_t parks_by_caller_ = 0;     // of stats.parks
  StepEvents events_;
  double iteration_s_ = 0.0;    // smoothed
  double last_commit_s_ = 0.0;  // of a plan with rows
};

}  // namespace fastserve::sched
