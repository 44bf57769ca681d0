#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>

#include "offload/copy/copy_hook.h"
#include "offload/offload_engine.h"

namespace fastserve::offload {

/// Slow links and failing copies, for tests of the engine and of what stands above it. Without a call of an `inject_*`
/// method it does nothing. Thread-safe.
class FaultInjector final : public CopyHook {
 public:
  /// A new injector as the hook of `engine`, which keeps it.
  static std::shared_ptr<FaultInjector> install(OffloadEngine& engine);

  /// Every transfer of `direction` takes `seconds` longer from now on; 0 ends it.
  void inject_delay(Direction direction, double seconds);
  /// Every transfer takes a random time in [0, max_seconds) longer, of one reproducible sequence per direction; 0 ends
  /// it.
  void inject_random_delay(double max_seconds, std::uint64_t seed);
  /// The next `count` transfers of `direction` to start fail with an injected error; replaces an earlier count.
  void inject_failure(Direction direction, std::int64_t count);

  /// Every transfer that starts from now on fails, as on a device that is lost.
  void inject_device_fault();
  void before_copy(Direction direction) override;
  bool device_is_lost() const override;
  void close() override;

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
