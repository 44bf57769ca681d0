#pragma once

#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "sched/arrival_rate.h"
#include "sched/batch_picker.h"
#include "sched/core.h"
#include "sched/kv_mover.h"
#include "sched/plan_builder.h"
#include "sched/request_table.h"
#include "sched/scheduler.h"
#include "sched/swap_planner.h"
#include "sched/thrash_governor.h"

namespace fastserve::sched {

/// The parts of a scheduler and how they work together. Requests come and go in scheduler_requests.cc, iterations in
/// scheduler.cc, what the outside may look at in scheduler_views.cc.
class Scheduler::Impl {
 public:
  Impl(const SchedulerConfig& config, kv::KvManager& kv, LatencyModel& latency);

  // --- requests ---
  void add(std::int64_t request_id, std::span<const std::int32_t> prompt, const RequestOptions& options, double now_s);
  bool abort(std::int64_t request_id, double now_s);
  bool park(std::int64_t request_id, bool hold, double now_s);
  bool unpark(std::int64_t request_id, double now_s);

  // --- iterations ---
  std::shared_ptr<const StepPlan> schedule(double now_s);
  void commit(StepId step, std::span<const std::int32_t> sampled, double iteration_s, double now_s);
  void complete_transfers(std::span<const std::int64_t> transfer_ids, std::span<const std::uint8_t> ok, double now_s);
  void fail_step(StepId step, double now_s);
  StepEvents take_events();

  // --- views ---
  void set_link_rates(double offload_bytes_per_s, double upload_bytes_per_s);
  std::int64_t num_unfinished() const { return table_.num_live(); }
  std::int32_t num_plans_in_flight() const { return static_cast<std::int32_t>(in_flight_.size()); }
  std::int64_t num_transfers_in_flight() const { return mover_.num_transfers(); }
  SchedulerStats stats() const;
  std::vector<double> level_quanta_s() const { return core_.policy->level_quanta_s(); }
  RequestView explain(std::int64_t request_id, double now_s) const;
  RequestStats request_stats(std::int64_t request_id, double now_s) const;
  std::vector<LengthClassView> length_classes() const { return core_.policy->length_classes(); }
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
    IterationShape shape;
  };
  /// What the rows of one commit share.
  struct Commit {
    std::span<const std::int32_t> sampled;
    std::int64_t iteration_ns = 0;
    double next_decode_s = 0.0;
  };

  void set_now(double now_s);
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
  InFlight launch(const StepPlan& plan, std::span<const Pick> picks);
  void count_preemptions();
  const InFlight& oldest(StepId step) const;
  void prefetch_row(std::span<const Row> rows, std::size_t i) const;
  void commit_row(const Row& row, const Commit& commit);
  void charge(Request& request, const Commit& commit);
  void leave_batch(Request& request);
  Request& known(std::int64_t request_id) const;

  SchedulerCore core_;
  RequestTable table_;
  SwapPlanner planner_;
  KvMover mover_;
  BatchPicker picker_;
  PlanBuilder builder_;
  ThrashGovernor governor_;
  ArrivalRate arrivals_;
  std::deque<InFlight> in_flight_;
  std::vector<Row> spare_rows_;          // memory of a committed plan
  std::vector<Request*> left_batch_;     // since the newest plan; preempted unless the next one takes them
  std::vector<Request*> park_requests_;  // not at rest yet
  StepEvents events_;
  double iteration_s_ = 0.0;  // smoothed
  std::int64_t num_running_ = 0;
};

}  // namespace fastserve::sched
