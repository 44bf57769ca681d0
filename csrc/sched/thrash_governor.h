#pragma once

#include <cstdint>

namespace fastserve::sched {

/// Stops preemption for a while when it costs more than it brings: too many parks per finished request, or the link to
/// the host busier with swaps than the budget allows, over a window of iterations. While active nobody is evicted so
/// that another may start, nothing moves ahead of need and quanta are not charged, so that running requests keep their
/// places.
class ThrashGovernor {
 public:
  /// Long enough for some requests to finish in; short enough to react within seconds.
  static constexpr std::int64_t kWindowIterations = 256;
  /// Doubles while the first window after a cool-down thrashes again, up to the second number.
  static constexpr std::int64_t kCooldownIterations = 256;
  static constexpr std::int64_t kMaxCooldownIterations = 4096;
  /// Fewer parks than this in a window are never thrashing, however few requests finished.
  static constexpr std::int64_t kMinParks = 32;
  /// Seconds of copying, in one direction or the other, per second of iterations.
  static constexpr double kMaxLinkShare = 0.8;

  explicit ThrashGovernor(double parks_per_finish) : parks_per_finish_(parks_per_finish) {}

  /// One iteration ran; the arguments count from the start of the scheduler.
  void on_iteration(std::int64_t parks, std::int64_t finished, double copy_s, double iteration_s);

  bool active() const { return cooldown_ > 0; }
  std::int64_t trips() const { return trips_; }

 private:
  double parks_per_finish_;
  std::int64_t iterations_ = 0;
  std::int64_t cooldown_ = 0;
  std::int64_t next_cooldown_ = kCooldownIterations;
  std::int64_t trips_ = 0;
  std::int64_t parks_before_ = 0;
  std::int64_t finished_before_ = 0;
  double copy_before_s_ = 0.0;
  double window_s_ = 0.0;
};

}  // namespace fastserve::sched
