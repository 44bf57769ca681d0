#pragma once

#include <cstdint>
#include <optional>

#include "sched/policies/policy.h"
#include "sched/queues/level_queue.h"

namespace fastserve::sched {

/// First come, first served; with `by_priority` in strict classes, of which the smallest number is the first.
class Fcfs final : public Policy {
 public:
  explicit Fcfs(bool by_priority);

  void join(Request& request, double now_s, std::optional<double> first_iteration_s) override;
  void leave(Request& request) override;
  bool charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) override;
  const RequestQueue& order() const override { return queue_; }
  /// Nothing gives way: 0 for the first request, infinite for the others.
  double enst_s(const Request& request, double now_s) const override;

 private:
  LevelQueue queue_;  // one level, which grants all the time that a request needs
};

}  // namespace fastserve::sched
