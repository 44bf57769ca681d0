#include "sched/request.h"

#include <algorithm>

namespace fastserve::sched {

Request::Request(const RequestIdentity& identity, std::span<const std::int32_t> prompt,
                 const RequestOptions& request_options)
    : Progress(prompt, identity.max_total),
      Lifecycle(identity.arrival_s),
      id(identity.id),
      serial(identity.serial),
      arrival_s(identity.arrival_s),
      options(request_options),
      slot_(identity.slot),
      has_stop_tokens_((!options.ignore_eos && !options.eos_token_ids.empty()) || !options.stop_token_ids.empty()) {
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
