#include "internals/fault_injector.h"

#include <chrono>
#include <cmath>

#include "base/error.h"

namespace fastserve::offload {
namespace {

constexpr double kLongestDelayS = 3600;

void require_delay(double seconds, const char* name) {
  FS_REQUIRE(seconds >= 0 && seconds <= kLongestDelayS, name, " must be between 0 and ", kLongestDelayS,
             " seconds, got ", seconds);
}

}  // namespace

std::shared_ptr<FaultInjector> FaultInjector::install(OffloadEngine& engine) {
  const auto injector = std::make_shared<FaultInjector>();
  engine.set_copy_hook(injector);
  return injector;
}

void FaultInjector::inject_delay(Direction direction, double seconds) {
  require_delay(seconds, "an injected delay");
  std::lock_guard lock(mutex_);
  faults_[index_of(direction)].delay_s = seconds;
}

void FaultInjector::inject_random_delay(double max_seconds, std::uint64_t seed) {
  require_delay(max_seconds, "an injected random delay");
  std::lock_guard lock(mutex_);
  for (const Direction direction : kDirections) {
    Faults& faults = faults_[index_of(direction)];
    faults.max_random_delay_s = max_seconds;
    faults.random.seed(seed * kNumDirections + index_of(direction));
  }
}

void FaultInjector::inject_failure(Direction direction, std::int64_t count) {
  FS_REQUIRE(count >= 0, "the number of transfers to fail must not be negative, got ", count);
  std::lock_guard lock(mutex_);
  faults_[index_of(direction)].failures_left = count;
}

void FaultInjector::inject_device_fault() {
  std::lock_guard lock(mutex_);
  device_is_lost_ = true;
}

bool FaultInjector::device_is_lost() const {
  std::lock_guard lock(mutex_);
  return device_is_lost_;
}

void FaultInjector::before_copy(Direction direction) {
  std::unique_lock lock(mutex_);
  Faults& faults = faults_[index_of(direction)];
  double delay_s = faults.delay_s;
  if (faults.max_random_delay_s > 0) {
    delay_s += std::uniform_real_distribution<double>(0, faults.max_random_delay_s)(faults.random);
  }
  if (delay_s > 0) stopped_.wait_for(lock, std::chrono::duration<double>(delay_s), [&] { return stopping_; });
  if (device_is_lost_) detail::raise<DeviceError>("injected fault of the device in a copy ", direction_name(direction));
  if (faults.failures_left > 0) {
    --faults.failures_left;
    detail::raise<DeviceError>("injected failure of a copy ", direction_name(direction));
  }
}

void FaultInjector::close() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  stopped_.notify_all();
}

}  // namespace fastserve::offload
