#pragma once

#include <array>
#include <cstdint>
#include <set>
#include <vector>

#include "sched/policies/policy.h"

namespace fastserve::sched {

/// Shortest remaining processing time: an oracle that is told the output length (RequestOptions::oracle_output_tokens,
/// else max_tokens). For the simulator; operations cost O(log n), num_ahead and level_counts O(n).
class Srpt final : public Policy {
 public:
  /// `token_s`: seconds of one decode iteration, the weight of an output token against prefill seconds.
  explicit Srpt(double token_s) : token_s_(token_s) {}

  void join(Request& request, double first_iteration_s) override;
  void leave(Request& request) override;
  void rejoin(Request& request, double now_s) override;
  void change_place(Request& request, Place from) override;
  void begin_run(Request& request) override { static_cast<void>(request); }
  void end_run(Request& request, double now_s) override { node(request).wait_since_s = now_s; }
  bool charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) override;
  std::int64_t promote_starving(double now_s) override;
  Request* next(const Request* after, PlaceMask places) const override;
  Request* prev(const Request* before, PlaceMask places) const override;
  bool before(const Request& a, const Request& b) const override { return Shorter{}(&a, &b); }
  bool same_level(const Request& a, const Request& b) const override;
  /// The remaining seconds of the request itself: in the order of the queue, though not a time.
  double enst_s(const Request& request, double now_s) const override;
  double quantum_s(const Request& request) const override;
  double work_s(const Request& request) const override { return node(request).srpt.order_key; }
  std::int64_t num_ahead(const Request& request) const override;
  std::vector<std::int32_t> level_counts() const override;
  void check_integrity() const override;

 private:
  struct Shorter {
    bool operator()(const Request* a, const Request* b) const {
      if (a->options.priority != b->options.priority) return a->options.priority < b->options.priority;
      if (node(*a).srpt.order_key != node(*b).srpt.order_key) return node(*a).srpt.order_key < node(*b).srpt.order_key;
      return a->serial < b->serial;
    }
  };
  std::set<Request*, Shorter>& plane(Place place) { return planes_[static_cast<std::size_t>(place)]; }

  double token_s_;
  std::array<std::set<Request*, Shorter>, kNumPlaces> planes_;
};

}  // namespace fastserve::sched
