#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "sched/requests/kv_state.h"
#include "sched/requests/lifecycle.h"
#include "sched/requests/progress.h"
#include "sched/requests/queue_node.h"
#include "sched/requests/request_types.h"

namespace fastserve::sched {

/// What a request is given when it joins, for good.
struct RequestIdentity {
  std::int64_t id = 0;
  std::int64_t serial = 0;     // order of arrival
  std::int32_t slot = 0;       // of the workers' request tables
  std::int32_t max_total = 0;  // tokens of prompt and output, at most
  double arrival_s = 0.0;
};

/// One request. Owned by the request table; its address is stable. All code may read it; each part is changed by its
/// owner alone, by methods that no other class can call: Progress by Scheduler, KvState by KvMover, Lifecycle by
/// SchedulerCore, and the queue node by Policy and the queues that policies are made of.
class Request : public Progress, public KvState, public Lifecycle {  // what every step touches comes first
  std::int32_t slot_;
  bool has_stop_tokens_;  // some token may end it

 public:
  static constexpr std::size_t kPrefetchDistance = 4;  // requests that a walk looks ahead

  Request(const RequestIdentity& identity, std::span<const std::int32_t> prompt, const RequestOptions& request_options);

  const std::int64_t id;
  const std::int64_t serial;
  const double arrival_s;
  /// What the caller asked.
  const RequestOptions options;

  /// Of the workers' request tables.
  std::int32_t slot() const { return slot_; }
  const QueueNode& queue() const { return queue_; }

  /// Tokens whose KV is written once the plans in flight have run.
  std::int32_t scheduled() const { return num_computed() + num_in_flight(); }
  bool is_stop_token(std::int32_t token) const { return has_stop_tokens_ && stops_at(token); }
  RequestStats stats(double now_s) const;
  /// Bring what a step touches into the cache, for those who walk over many requests.
  void prefetch() const {
    const Progress* const progress = this;
    const KvState* const kv = this;
    const Lifecycle* const lifecycle = this;
    for (const void* line : {static_cast<const void*>(progress), static_cast<const void*>(kv),
                             static_cast<const void*>(lifecycle), static_cast<const void*>(&slot_),
                             static_cast<const void*>(&queue_), static_cast<const void*>(&queue_.ticket)})
      __builtin_prefetch(line);
  }

 private:
  friend class Policy;
  friend class RequestQueue;
  friend class TicketQueue;
  friend struct WaitList;
  friend struct RequestPeer;  // of the tests

  bool stops_at(std::int32_t token) const;

  QueueNode queue_;
};

}  // namespace fastserve::sched
