#pragma once

#include <cstdint>

namespace fastserve::sched {

/// Keeps preemption from costing more than it brings.
///
/// - It stops preemption for a while after too many parks per finished request, or with the link to the host busier with
///   swaps than the budget allows, over a window of iterations. While active nobody is evicted so that another may
///   start, nothing moves ahead of need and quanta are not charged, so that running requests keep their places.
/// - It grants a budget for dropping KV so that another may start: computing it anew takes time from everybody.
class ThrashGovernor {
 public:
  /// Long enough for some requests to finish in; short enough to react within seconds.
  static constexpr std::int64_t kWindowIterations = 256;
  /// Always the same: twice as long after each window that thrashes made latencies up to 1.8 times as long where memory
  /// is short, since half the time with preemption is what the short requests live on.
  static constexpr std::int64_t kCooldownIterations = 256;
  /// Fewer parks than this in a window are never thrashing, however few requests finished.
  static constexpr std::int64_t kMinParks = 32;
  /// Seconds of copying, in one direction or the other, per second of iterations.
  static constexpr double kMaxLinkShare = 0.8;
  /// Seconds of computing dropped KV anew per second of iterations: what preemption may take from the throughput.
  static constexpr double kDropShare = 0.1;

  /// Counted from the start of the scheduler.
  struct Totals {
    std::int64_t parks = 0;  // but for those a caller asked for: preempting less would not save them
    std::int64_t finished = 0;
    double copy_s = 0.0;
    double dropped_s = 0.0;  // to compute anew what was dropped, for whatever reason
  };

  explicit ThrashGovernor(double parks_per_finish) : parks_per_finish_(parks_per_finish) {}

  /// One iteration ran.
  void on_iteration(const Totals& totals, double iteration_s);

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
