#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <random>

#include "offload/transfer.h"

namespace fastserve::offload {

/// Fault injection for tests of what stands above the engine: slow links and failing copies. Without a call of an
/// `inject_*` method it does nothing. Thread-safe.
class FaultInjector {
 public:
  /// Every transfer of `direction` takes `seconds` longer from now on; 0 ends it.
  void inject_delay(Direction direction, double seconds);
  /// Every transfer takes a random time in [0, max_seconds) longer, of one reproducible sequence per direction; 0 ends
  /// it.
  void inject_random_delay(double max_seconds, std::uint64_t seed);
  /// The next `count` transfers of `direction` to start fail with an injected error; replaces an earlier count.
  void inject_failure(Direction direction, std::int64_t count);

  /// Every transfer that starts from now on fails, as on a device that is lost.
  void inject_device_fault();
  /// Whether a device fault was injected.
  bool device_is_lost() const;

  /// For backends, at the start of a transfer: sleep the injected delay, then throw DeviceError if it is to fail.
  void before_copy(Direction direction);
  /// For backends, on closing: end the sleep going on and every later one.
  void stop_delays();

 private:
  struct Faults {
    double delay_s = 0;
    double max_random_delay_s = 0;
    std::mt19937_64 random;
    std::int64_t failures_left = 0;
  };

  mutable std::mutex mutex_;
  std::condition_variable stopped_;
  bool stopping_ = false;
  bool device_is_lost_ = false;
  std::array<Faults, kNumDirections> faults_;
};

}  // namespace fastserve::offload
