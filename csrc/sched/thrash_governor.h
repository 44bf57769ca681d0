#pragma once

#include <cstdint>

namespace fastserve::sched {

/// Keeps preemption from costing more than it gains.
///
/// - It stops preemption for a while after too many parks per finished request, or with the link to the host busier with
///   swaps than the budget allows, over a window of iterations. While active no request is evicted for the start of
///   another, nothing moves ahead of need and quanta are not charged, so that running requests keep their places.
/// - It grants a budget for dropping KV so that another request may start: recomputing it takes time from all requests.
class ThrashGovernor {
 public:
  /// Long enough for some requests to finish in; short enough to react within seconds.
  static constexpr std::int64_t kWindowIterations = 256;
  /// Constant on purpose: doubling it after each thrashing window raised latencies up to 1.8 times where memory is
  /// short, because short requests depend on preemption.
  static constexpr std::int64_t kCooldownIterations = 256;
  /// Fewer parks than this in a window are never thrashing, however few requests finished.
  static constexpr std::int64_t kMinParks = 32;
  /// Seconds of copying, in one direction or the other, per second in which iterations run.
  static constexpr double kMaxLinkShare = 0.8;
  /// Seconds of recomputing dropped KV per second of iterations: what preemption may take from the throughput.
  static constexpr double kDropShare = 0.1;

  /// Counted from the start of the scheduler.
  struct Totals {
    std::int64_t parks = 0;  // except those that a caller asked for: preempting less would not save them
    std::int64_t finished = 0;
    double copy_s = 0.0;
    double dropped_s = 0.0;  // to recompute what was dropped, for any reason
  };

  explicit ThrashGovernor(double parks_per_finish) : parks_per_finish_(parks_per_finish) {}

  /// One iteration ran. `wall_s`: the part of its time in which no other iteration ran beside it, in another stage.
  void on_iteration(const Totals& totals, double iteration_s, double wall_s);

  bool active() const { return cooldown_ > 0; }
  /// Seconds; negative after drops that could not be avoided.
  double drop_budget_s() const { return drop_budget_s_; }
  bool budget_is_full() const { return budget_is_full_; }
  std::int64_t trips() const { return trips_; }

 private:
  void begin_window(const Totals& totals);

  double parks_per_finish_;
  std::int64_t iterations_ = 0;
  std::int64_t cooldown_ = 0;
  std::int64_t trips_ = 0;
  Totals before_;  // at the start of the window
  double window_s_ = 0.0;
  double dropped_s_ = 0.0;
  double drop_budget_s_ = 0.0;
  bool budget_is_full_ = false;
};

}  // namespace fastserve::sched
