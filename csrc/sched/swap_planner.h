#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sched/core.h"

namespace fastserve::sched {

/// Decides whose KV leaves the device, how, and whose comes back, by estimated next scheduled time (ENST). Changes
/// nothing.
///
/// Source of ENST, and of offloading by descending and uploading by ascending ENST: FastServe (NSDI '26).
class SwapPlanner {
 public:
  /// Requests looked at for one decision, from the end (victims) or the front (uploads) of the order: the cost of a
  /// step must not grow with the number of requests.
  static constexpr int kMaxCandidates = 64;
  /// An upload ahead of its turn starts this many copy times, and at least kUploadSlackS, before the turn: the estimate
  /// of the turn is a bound that finishing requests beat.
  static constexpr double kUploadLead = 4.0;
  static constexpr double kUploadSlackS = 0.05;
  /// Mirroring starts when this share of the device pool is in use: before that nothing will have to leave.
  static constexpr double kMirrorDeviceUsage = 0.5;
  /// Blocks mirrored in one step, small enough not to delay a transfer that a request waits for.
  static constexpr std::int32_t kMirrorBlocks = 8;

  struct Victim {
    Request* request = nullptr;
    double enst_s = 0.0;
    std::int32_t num_blocks = 0;  // freed by its eviction
    std::int32_t num_copies = 0;  // blocks to copy for it; 0 or 1 (= some) when `behind` is null
    bool in_flight = false;
  };

  explicit SwapPlanner(const SchedulerCore& core) : core_(core) {}

  /// Requests with KV on the device that come after `behind` in order (nullptr: all) and are not in the plan of this
  /// step, best victim first: those in no plan in flight, then by descending ENST, the mirrored before the others at a
  /// tie, then the last in order. Without `even_capped`, those parked as often as allowed are spared. Valid until the
  /// next call.
  std::span<const Victim> victims(const Request* behind, bool even_capped);

  /// kOffloaded, or the kDropped... that says why its KV is to be recomputed instead.
  Decision how_to_evict(const Request& request) const;

  /// Seconds of iterations that computing its KV again takes; 0 where it is moved to the host.
  double recompute_s(const Victim& victim) const;

  /// Parked requests that are due to run within the time an upload takes, by ascending ENST; held requests are not in
  /// the queues and hence not here. Valid until the next call.
  std::span<Request* const> uploads();

  /// Residents to mirror, by descending ENST; at most four.
  std::span<const Victim> mirrors();

  /// Blocks the batch grows by in the next H iterations: `rows` with the tokens each holds after the step.
  std::int32_t growth(const Request& request, std::int32_t tokens_after) const;

 private:
  bool allowed(const Request& request, bool even_capped) const;

  const SchedulerCore& core_;
  std::vector<Victim> victims_;
  std::vector<std::pair<double, Request*>> by_enst_;
  std::vector<Request*> uploads_;
};

}  // namespace fastserve::sched
