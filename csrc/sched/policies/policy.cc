#include "sched/policies/policy.h"

namespace fastserve::sched {

void Policy::follow(Request& request, Event event, double now_s) {
  if (event == Event::kRests) node(request).wait_since_s = now_s;
}

std::int64_t Policy::promote_starving(double now_s) {
  static_cast<void>(now_s);
  return 0;
}

bool Policy::may_start(const Request& request) const {
  static_cast<void>(request);
  return true;
}

}  // namespace fastserve::sched
