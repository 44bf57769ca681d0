#include "sched/policies/srpt.h"

#include <algorithm>
#include <iterator>
#include <limits>

#include "base/error.h"

namespace fastserve::sched {

void Srpt::join(Request& request, double first_iteration_s) {
  const std::int32_t outputs =
      request.options.oracle_output_tokens > 0 ? request.options.oracle_output_tokens : request.options.max_tokens;
  node(request).srpt.order_key = first_iteration_s + token_s_ * outputs;
  node(request).queued = true;
  plane(request.place()).insert(&request);
}

void Srpt::leave(Request& request) {
  plane(request.place()).erase(&request);
  node(request).queued = false;
}

void Srpt::rejoin(Request& request, double now_s) {
  node(request).wait_since_s = now_s;
  node(request).queued = true;
  plane(request.place()).insert(&request);
}

void Srpt::change_place(Request& request, Place from) {
  plane(from).erase(&request);
  plane(request.place()).insert(&request);
}

bool Srpt::charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) {
  node(request).attained_ns += iteration_ns;
  const std::int32_t outputs =
      request.options.oracle_output_tokens > 0 ? request.options.oracle_output_tokens : request.options.max_tokens;
  const bool prefilling = request.num_computed() < request.num_tokens() - 1;
  auto& own = plane(request.place());
  own.erase(&request);
  node(request).srpt.order_key =
      token_s_ * std::max(1, outputs - request.num_outputs()) + (prefilling ? next_iteration_s : 0.0);
  own.insert(&request);
  return false;
}

std::int64_t Srpt::promote_starving(double now_s) {
  static_cast<void>(now_s);
  return 0;
}

Request* Srpt::next(const Request* after, PlaceMask places) const {
  Request* best = nullptr;
  for (std::size_t place = 0; place < kNumPlaces; ++place) {
    if ((places >> place & 1u) == 0) continue;
    const auto& members = planes_[place];
    const auto at = after ? members.upper_bound(const_cast<Request*>(after)) : members.begin();
    if (at != members.end() && (!best || Shorter{}(*at, best))) best = *at;
  }
  return best;
}

Request* Srpt::prev(const Request* before, PlaceMask places) const {
  Request* best = nullptr;
  for (std::size_t place = 0; place < kNumPlaces; ++place) {
    if ((places >> place & 1u) == 0) continue;
    const auto& members = planes_[place];
    const auto at = before ? members.lower_bound(const_cast<Request*>(before)) : members.end();
    if (at != members.begin() && (!best || Shorter{}(best, *std::prev(at)))) best = *std::prev(at);
  }
  return best;
}

bool Srpt::same_level(const Request& a, const Request& b) const { return a.options.priority == b.options.priority; }

double Srpt::enst_s(const Request& request, double now_s) const {
  static_cast<void>(now_s);
  return request.plans_in_flight() > 0 ? 0.0 : node(request).srpt.order_key;
}

double Srpt::quantum_s(const Request& request) const {
  static_cast<void>(request);
  return std::numeric_limits<double>::infinity();
}

std::int64_t Srpt::num_ahead(const Request& request) const {
  std::int64_t ahead = 0;
  for (const auto& members : planes_)
    ahead += std::distance(members.begin(), members.lower_bound(const_cast<Request*>(&request)));
  return ahead;
}

std::vector<std::int32_t> Srpt::level_counts() const {
  std::size_t members = 0;
  for (const auto& each : planes_) members += each.size();
  return {static_cast<std::int32_t>(members)};
}

void Srpt::check_integrity() const {
  for (std::size_t place = 0; place < kNumPlaces; ++place)
    for (const Request* request : planes_[place])
      FS_CHECK(node(*request).queued && request->place() == static_cast<Place>(place), "request ", request->id,
               " stands in a wrong place");
}

}  // namespace fastserve::sched
