#pragma once

#include <cstdint>
#include <set>

#include "sched/requests/request.h"

namespace fastserve::sched {

struct EarlierDue {
  bool operator()(const Request* a, const Request* b) const {
    const double a_s = a->queue().due_s, b_s = b->queue().due_s;
    return a_s != b_s ? a_s < b_s : a->serial < b->serial;
  }
};

/// Requests that wait, all with the same limit, so in the order of being due.
struct WaitList {
  Request* oldest = nullptr;
  Request* newest = nullptr;

  void push_back(Request& request) {
    request.queue_.older = newest;
    request.queue_.newer = nullptr;
    (newest ? newest->queue_.newer : oldest) = &request;
    newest = &request;
  }
  void erase(Request& request) {
    QueueNode& node = request.queue_;
    (node.older ? node.older->queue_.newer : oldest) = node.newer;
    (node.newer ? node.newer->queue_.older : newest) = node.older;
    node.older = node.newer = nullptr;
  }
};

/// Who of one class waits to be promoted, and who has been.
struct Seats {
  WaitList starts;                            // without output
  WaitList streams;                           // with output
  std::set<Request*, EarlierDue> own_pauses;  // with output, and a limit of their own
  std::int64_t streams_seated = 0;
  std::int64_t starts_seated = 0;
  double start_credit_s = 0.0;  // of prefill that promoted starts may take, as at credited_s
  double credited_s = 0.0;

  /// The stream that is due first; null without any.
  Request* first_stream() const {
    Request* const own = own_pauses.empty() ? nullptr : *own_pauses.begin();
    if (!own || !streams.oldest) return own ? own : streams.oldest;
    return EarlierDue{}(own, streams.oldest) ? own : streams.oldest;
  }
  void check_integrity() const;
};

}  // namespace fastserve::sched
