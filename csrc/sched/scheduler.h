#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kv/kv_manager.h"
#include "sched/latency_model.h"
#include "sched/length_class.h"
#include "sched/request.h"
#include "sched/scheduler_config.h"
#include "sched/stats.h"
#include "sched/step_plan.h"

namespace fastserve::sched {

/// What happened since the last take_events(): one entry per token and per end of a request, in the order of happening.
/// A prefill chunk that yields no token is no event.
struct StepEvents {
  std::vector<std::int64_t> request_ids;
  std::vector<std::int32_t> sample_indices;  // entry of the committed step's sampling arrays, -1 when none
  std::vector<std::int32_t> token_ids;       // -1: no token
  std::vector<std::uint8_t> finish_reasons;  // FinishReason, kNone while it goes on
  std::vector<std::int32_t> num_cached_tokens;

  void reserve(std::size_t count) {
    request_ids.reserve(count);
    sample_indices.reserve(count);
    token_ids.reserve(count);
    finish_reasons.reserve(count);
    num_cached_tokens.reserve(count);
  }
};

/// Policy + KV + swap planner. Sole owner of request state. Single-threaded; owns no clock: the same calls with the
/// same times give the same plans, bit for bit. A time before that of an earlier call counts as the earlier one.
///
/// Order of calls: schedule() -> run it -> commit(). Up to two plans may be in flight (the second is made while the
/// first runs); they are committed in order. A row of the second plan whose input token the first one samples carries
/// -1 and a token source. A request found finished at the first commit is ignored in the second, whose blocks stay held
/// until then.
class Scheduler {
 public:
  static constexpr std::size_t kMaxPlansInFlight = 2;

  /// `kv` and `latency` outlive the scheduler and are changed through it only. Throws InvalidArgumentError for a
  /// configuration out of range.
  Scheduler(const SchedulerConfig& config, kv::KvManager& kv, LatencyModel& latency);
  ~Scheduler();

  /// Throws InvalidArgumentError when the id is in use, the prompt is empty or longer than max_model_len - 1, or the
  /// request could never fit the device pool. An output that would outgrow the pool ends with kLength where the pool
  /// does.
  void add(std::int64_t request_id, std::span<const std::int32_t> prompt, const RequestOptions& options, double now_s);
  /// False when unknown or already finished. The final event comes at once, or with the commit of a plan it is part of.
  bool abort(std::int64_t request_id, double now_s);
  /// Move the KV of a request to the host (or drop it, in recompute mode) as soon as it is in no plan. With `hold` it
  /// stays there until unpark; without, it returns by the usual rules. Idempotent; false when unknown or finished.
  bool park(std::int64_t request_id, bool hold, double now_s);
  /// Undo park; a held request joins the end of its level.
  bool unpark(std::int64_t request_id, double now_s);

  /// Plan the next iteration. The plan may have no rows (nothing can run) and may still carry transfers to start.
  /// Throws InvalidArgumentError when two plans are in flight.
  std::shared_ptr<const StepPlan> schedule(double now_s);
  /// The oldest plan in flight ran: sampled[s] is the token of sampling entry s (-1: no finite logit, fails the
  /// request); iteration_s its wall time, charged to every row. Throws InvalidArgumentError for another step or a wrong
  /// number of tokens, and changes nothing then.
  void commit(StepId step, std::span<const std::int32_t> sampled, double iteration_s, double now_s);
  /// Transfers ended; one flag per id, 0 = failed. A failed copy costs time, never a request. Throws for an id that is
  /// not in flight, and changes nothing then.
  void complete_transfers(std::span<const std::int64_t> transfer_ids, std::span<const std::uint8_t> ok, double now_s);
  /// Fail every request of the oldest plan in flight (a device fault); their KV is given up.
  void fail_step(StepId step, double now_s);
  StepEvents take_events();

  void set_link_rates(double offload_bytes_per_s, double upload_bytes_per_s);

  bool has_unfinished() const;
  std::int64_t num_unfinished() const;
  std::int32_t num_plans_in_flight() const;
  std::int64_t num_transfers_in_flight() const;
  SchedulerStats stats() const;
  /// Quanta of the policy's levels, seconds, from the first level on; infinite where nobody is ever demoted, none for a
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
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastserve::sched
