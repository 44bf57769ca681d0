#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "sched/latency_model.h"
#include "sched/lengths/length_class.h"
#include "sched/policies/mlfq.h"
#include "sched/scheduler_config.h"

namespace fastserve::sched {

/// Levels by the Gittins index of the output lengths seen so far of prompts alike (see gittins.h; the worth of a
/// request, mostly 1 / length, is that of length_class.h). Until something is learned all requests are in the first
/// level: first come, first served.
///
/// - Level = floor(log_ratio(G)), G in tokens of decoding at the present batch. A request joins at G(0) with its
///   prefill, and its level is looked at again when its outputs enter another length bin, never between: it is
///   preempted only at a change of level. The level rises in number when it turns out to be one of the long ones, and
///   falls again when it nears the length at which those end.
/// - Requests that are due are promoted as in every MLFQ, and return to the level of their index.
class LearnedPolicy : public Mlfq {
 public:
  /// `mlfq.quanta_s` are those of skip-join MLFQ; the levels of the index are added. `latency` outlives the policy.
  /// Of `config` it takes the quantum_ratio, for the indices of two levels, and what is said of lengths.
  /// Throws InvalidArgumentError for an infinite first quantum.
  /// `first_level`: levels before those of the index, which a policy that builds on this one fills.
  LearnedPolicy(MlfqConfig mlfq, const SchedulerConfig& config, const LatencyModel& latency,
                std::int32_t first_level = 0);

  void join(Request& request, double now_s, std::optional<double> first_iteration_s) override;
  void leave(Request& request) override;
  bool charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) override;
  std::int64_t promote_starving(double now_s) override;
  double enst_s(const Request& request, double now_s) const override;

  /// Expected cost over worth that the order follows, seconds; 0 while it follows none.
  double index_s(const Request& request) const;
  /// What was learned of output lengths.
  std::vector<LengthClassView> length_classes() const;

 protected:
  /// Seconds that its prefill adds to the iterations.
  double prefill_left_s(const Request& request) const;
  /// Where it stands unless it is promoted, with so much prefill to do.
  virtual std::int32_t home_level(const Request& request, double prefill_s) const;
  /// It was in an iteration; true when its outputs entered another length bin.
  bool note_iteration(Request& request, double next_iteration_s);

 private:
  static MlfqConfig with_levels(MlfqConfig mlfq, double level_ratio, std::int32_t first_level);
  double index_tokens(const Request& request, double prefill_s) const;
  std::int32_t level_of(double index_tokens) const;
  void note_progress(Request& request);
  /// False until something is known. Then it puts those that came before where they belong: once, O(requests).
  bool follows_index();
  LengthClassView view_of(const LengthClass& lengths) const;

  double levels_per_octave_;
  std::int32_t first_level_;  // of the index
  const LatencyModel& latency_;
  LengthClasses classes_;
  bool follows_index_ = false;    // else the order of arrival
  double token_s_;                // c: seconds of a decode iteration over its rows
  std::int64_t num_rows_ = 1;     // of the last iteration
  std::int64_t num_charged_ = 0;  // since the last plan was made
};

}  // namespace fastserve::sched
