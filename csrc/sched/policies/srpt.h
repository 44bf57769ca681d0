#pragma once

#include <cstdint>
#include <optional>

#include "sched/policies/policy.h"
#include "sched/queues/sorted_queue.h"

namespace fastserve::sched {

/// Shortest remaining processing time: an oracle that knows the output length (RequestOptions::oracle_output_tokens,
/// else max_tokens). For the simulator.
class Srpt final : public Policy {
 public:
  /// `token_s`: seconds of one decode iteration, the weight of an output token against prefill seconds.
  explicit Srpt(double token_s) : Policy(PolicyTraits{}), token_s_(token_s) {}

  void join(Request& request, double now_s, std::optional<double> first_iteration_s) override;
  void leave(Request& request) override { queue_.erase(request); }
  bool charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) override;
  const RequestQueue& order() const override { return queue_; }
  /// The remaining seconds of the request itself: in the order of the queue, though not a time.
  double enst_s(const Request& request, double now_s) const override;

 private:
  double token_s_;
  SortedQueue queue_{true};
};

}  // namespace fastserve::sched
