#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "sched/requests/request.h"

namespace fastserve::sched {

/// The queued requests in the order in which they run, by the places in which they stand. The policy that owns it decides
/// where each stands; the scheduler walks over it.
class RequestQueue {
 public:
  virtual ~RequestQueue() = default;
  RequestQueue() = default;
  RequestQueue(const RequestQueue&) = delete;
  RequestQueue& operator=(const RequestQueue&) = delete;

  /// The state of a member changed; it stood in `from` before.
  virtual void change_place(Request& request, Place from) = 0;

  /// The member behind `after` (nullptr: from the front) that stands in one of `places`; nullptr at the end.
  virtual Request* next(const Request* after, PlaceMask places) const = 0;
  virtual Request* prev(const Request* before, PlaceMask places) const = 0;
  /// The members of one level behind `after` in one of `places`, in order, as far as they fit into `run`; their number,
  /// 0 at the end. For long walks: one call instead of one per member.
  virtual std::size_t next_run(const Request* after, PlaceMask places, std::span<Request*> run) const;
  /// `a` stands before `b`.
  virtual bool before(const Request& a, const Request& b) const = 0;
  /// The two stand in the same level, within which decodes go before prefill chunks.
  virtual bool same_level(const Request& a, const Request& b) const = 0;

  virtual std::int64_t num_ahead(const Request& request) const = 0;
  virtual std::vector<std::int32_t> level_counts() const = 0;
  /// Seconds that each level grants; none for a queue without levels.
  virtual std::span<const double> level_quanta_s() const { return {}; }
  virtual void check_integrity() const = 0;

 protected:
  /// The part of a request that policies and their queues own.
  static QueueNode& node(Request& request) { return request.queue_; }
  static const QueueNode& node(const Request& request) { return request.queue_; }
};

}  // namespace fastserve::sched
