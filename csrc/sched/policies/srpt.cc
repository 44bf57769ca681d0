#include "sched/policies/srpt.h"

#include <algorithm>

namespace fastserve::sched {
namespace {

std::int32_t outputs_of(const Request& request) {
  return request.options.oracle_output_tokens > 0 ? request.options.oracle_output_tokens : request.options.max_tokens;
}

}  // namespace

void Srpt::join(Request& request, double now_s, std::optional<double> first_iteration_s) {
  node(request).wait_since_s = now_s;
  if (first_iteration_s) node(request).work_s = *first_iteration_s + token_s_ * outputs_of(request);
  queue_.insert(request, node(request).work_s);
}

bool Srpt::charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) {
  node(request).attained_ns += iteration_ns;
  const bool prefilling = request.num_computed() < request.num_tokens() - 1;
  node(request).work_s =
      token_s_ * std::max(1, outputs_of(request) - request.num_outputs()) + (prefilling ? next_iteration_s : 0.0);
  queue_.move_to(request, node(request).work_s);
  return false;
}

double Srpt::enst_s(const Request& request, double now_s) const {
  static_cast<void>(now_s);
  return request.plans_in_flight() > 0 ? 0.0 : node(request).work_s;
}

}  // namespace fastserve::sched
