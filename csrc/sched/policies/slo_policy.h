#pragma once

#include <cstdint>
#include <optional>
#include <set>

#include "sched/policies/learned_policy.h"

namespace fastserve::sched {

/// Service objectives: requests that can still meet theirs go first, by what slack they have; the others, and those
/// without any, follow in the order of LearnedPolicy.
///
/// The output that comes next in a stream is due at first output + outputs after it * tpot. What was produced ahead of
/// that is slack: a pause within it is not felt. So a batch can feed more streams than it has slots. Three kinds of
/// levels stand before those of the index:
///
/// - urgent: streams whose slack has run out, in the order in which it did. Back once they are kAheadS ahead.
/// - fresh: requests without output that can still meet ttft, in the order of their index.
/// - ahead: streams with slack.
///
/// A request starts only where the slots can feed it beside those that were started, each at the pace of its objective
/// (may_start), and prefills may not make the iterations longer than those paces bear (most_prefill_s), which is corrected
/// by what the iterations took. One that missed its objective gets what the others leave, at least kRestShare of the slots.
class SloPolicy final : public LearnedPolicy {
 public:
  static constexpr double kAheadS = 0.05;           // beyond its lead, of an urgent stream that goes back
  static constexpr double kFill = 0.95;             // of the slots that objectives may take
  static constexpr double kRestShare = 0.1;         // of the slots, for those that missed theirs
  static constexpr double kLeadIterations = 3.0;    // before an output is due: planned ahead, under way, its own
  static constexpr double kLongestIteration = 0.8;  // of the mean pace of the streams in it
  static constexpr std::int32_t kFreshLevels = 32;
  static constexpr double kHopelessS = 1.0;  // behind its pace: a stream that no longer counts as able to meet it

  SloPolicy(MlfqConfig mlfq, const SchedulerConfig& config, const LatencyModel& latency);

  void join(Request& request, double now_s, std::optional<double> first_iteration_s) override;
  void leave(Request& request) override;
  void follow(Request& request, Event event, double now_s) override;
  bool charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) override;
  std::int64_t promote_starving(double now_s) override;
  double enst_s(const Request& request, double now_s) const override;
  bool may_start(const Request& request) const override;

 protected:
  std::int32_t home_level(const Request& request, double prefill_s) const override;

 private:
  enum Level : std::int32_t { kUrgent, kFresh, kAhead = kFresh + kFreshLevels, kNumLevels };
  struct EarlierDue {
    bool operator()(const Request* a, const Request* b) const {
      const double a_s = a->queue().slo.slack_ends_s, b_s = b->queue().slo.slack_ends_s;
      return a_s != b_s ? a_s < b_s : a->serial < b->serial;
    }
  };
  double ttft_s(const Request& request) const;
  double tpot_s(const Request& request) const;
  bool has_objective(const Request& request) const { return ttft_s(request) > 0.0 || tpot_s(request) > 0.0; }
  /// It has met its objectives so far and can go on to.
  bool can_meet(const Request& request) const;
  /// Seconds from now until the output that comes next is due.
  double ahead_s(const Request& request) const;
  double lead_s() const { return kLeadIterations * iteration_s_; }
  /// Iterations that the streams can bear: a little shorter than the pace of their objectives.
  double longest_iteration_s() const { return kLongestIteration * static_cast<double>(num_paced_) / paced_per_s_; }
  void watch(Request& request);
  void unwatch(Request& request);
  void account(Request& request);
  void limit_prefills();

  // Objectives of requests that bring none; 0: none.
  double ttft_s_;
  double tpot_s_;
  double now_s_ = 0.0;
  double iteration_s_;  // smoothed
  double last_iteration_s_ = 0.0;
  double paced_per_s_ = 0.0;    // outputs per second that started requests are to get
  double prefill_scale_ = 1.0;  // by what iterations with prefills took
  double decode_s_ = 0.0;       // of an iteration of decodes like the last one
  std::int64_t num_paced_ = 0;
  std::int64_t num_rest_ = 0;               // started requests that missed their objective, or have none
  std::set<Request*, EarlierDue> watched_;  // in no plan, with slack that runs out
};

}  // namespace fastserve::sched
