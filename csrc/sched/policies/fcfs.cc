#include "sched/policies/fcfs.h"

#include <limits>

namespace fastserve::sched {
namespace {

constexpr double kInfinite = std::numeric_limits<double>::infinity();

}  // namespace

Fcfs::Fcfs(bool by_priority) : Policy({.strict_classes = by_priority}), queue_({kInfinite}, by_priority) {}

void Fcfs::join(Request& request, double now_s, std::optional<double> first_iteration_s) {
  static_cast<void>(first_iteration_s);
  node(request).wait_since_s = now_s;
  queue_.enter(request);
  queue_.push_back(request);
}

void Fcfs::leave(Request& request) {
  queue_.erase(request);
  queue_.exit(request);
}

bool Fcfs::charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) {
  static_cast<void>(next_iteration_s);
  queue_.add_attained(request, iteration_ns);
  return false;
}

double Fcfs::enst_s(const Request& request, double now_s) const {
  static_cast<void>(now_s);
  if (request.plans_in_flight() > 0 || !node(request).queued) return 0.0;
  return queue_.num_ahead(request) == 0 ? 0.0 : kInfinite;
}

}  // namespace fastserve::sched
