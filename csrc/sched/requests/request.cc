#include "sched/requests/request.h"

#include <algorithm>

namespace fastserve::sched {

Request::Request(const RequestIdentity& identity, std::span<const std::int32_t> prompt,
                 const RequestOptions& request_options)
    : Progress(prompt, identity.max_total),
      Lifecycle(identity.arrival_s),
      slot_(identity.slot),
      has_stop_tokens_((!request_options.ignore_eos && !request_options.eos_token_ids.empty()) ||
                       !request_options.stop_token_ids.empty()),
      id(identity.id),
      serial(identity.serial),
      arrival_s(identity.arrival_s),
      options(request_options) {
  queue_.wait_since_s = arrival_s;
}

RequestStats Request::stats(double now_s) const {
  RequestStats stats{.preemptions = preemptions(), .recomputed_tokens = recomputed_tokens()};
  add_times(stats, now_s);
  return stats;
}

bool Request::stops_at(std::int32_t token) const {
  const auto holds = [token](const std::vector<std::int32_t>& ids) {
    return std::ranges::find(ids, token) != ids.end();
  };
  return (!options.ignore_eos && holds(options.eos_token_ids)) || holds(options.stop_token_ids);
}

}  // namespace fastserve::sched
