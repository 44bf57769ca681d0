#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "sched/policies/length_class.h"
#include "sched/request.h"

namespace fastserve::sched {

/// The order in which unfinished requests run, and how it changes. Knows no KV and no batch: only order, time attained
/// and time waited. Owns the queue nodes of requests. Held and finished requests are not queued.
class Policy {
 public:
  virtual ~Policy() = default;
  Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;

  /// A new request enters; `first_iteration_s` is the predicted time of its uncached prefill.
  virtual void join(Request& request, double first_iteration_s) = 0;
  virtual void leave(Request& request) = 0;
  /// Back after leave(): at the end of its level, waiting from now on.
  virtual void rejoin(Request& request, double now_s) = 0;
  /// The state of the request changed; it stood in `from` before.
  virtual void change_place(Request& request, Place from) = 0;

  /// It went into a plan and had been in none; it waits for nothing until end_run.
  virtual void begin_run(Request& request) = 0;
  virtual void end_run(Request& request, double now_s) = 0;
  /// It was in an iteration of `iteration_ns`; its next one takes `next_iteration_s`. True when it was demoted.
  virtual bool charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) = 0;
  /// It counts as started from now on, or no longer does (Request::counts_as_started).
  virtual void count_started(Request&) {}
  /// It may begin beside those that are started.
  virtual bool may_start(const Request&) const { return true; }
  /// Seconds that the prefills of one iteration may add to it, lest the streams in it fall behind.
  virtual double most_prefill_s() const { return std::numeric_limits<double>::infinity(); }
  /// Move the requests that waited for the starvation limit to the front section, in the order of starving, at most as
  /// many as the batch has slots: more could not run now, and a burst must not make the step long. O(number moved).
  virtual std::int64_t promote_starving(double now_s) = 0;

  /// The member behind `after` (nullptr: from the front) that stands in one of `places`; nullptr at the end.
  virtual Request* next(const Request* after, PlaceMask places) const = 0;
  virtual Request* prev(const Request* before, PlaceMask places) const = 0;
  /// The members of one level behind `after` in one of `places`, in order, as far as they fit into `run`; their number,
  /// 0 at the end. For those who walk far: one call instead of one per member.
  virtual std::size_t next_run(const Request* after, PlaceMask places, std::span<Request*> run) const;
  /// `a` stands before `b`.
  virtual bool before(const Request& a, const Request& b) const = 0;
  /// The two stand in the same level, within which decodes go before prefill chunks.
  virtual bool same_level(const Request& a, const Request& b) const = 0;

  /// Estimated next scheduled time, in seconds from now.
  virtual double enst_s(const Request& request, double now_s) const = 0;
  virtual double quantum_s(const Request& request) const = 0;
  /// Seconds that it is taken to run for once it gets on, by its place in the order; infinite where that says nothing.
  virtual double work_s(const Request& request) const = 0;
  /// Quanta of the levels, seconds; none for a policy without levels.
  virtual std::vector<double> level_quanta_s() const { return {}; }
  virtual std::int64_t num_ahead(const Request& request) const = 0;
  virtual std::vector<std::int32_t> level_counts() const = 0;
  /// Expected cost over worth that the order follows, seconds; 0 where it follows no such index.
  virtual double index_s(const Request&) const { return 0.0; }
  /// What was learned of output lengths; empty where nothing is.
  virtual std::vector<LengthClassView> length_classes() const { return {}; }
  virtual void check_integrity() const = 0;

 protected:
  /// The part of a request that policies own.
  static QueueNode& node(Request& request) { return request.queue_; }
  static const QueueNode& node(const Request& request) { return request.queue_; }
};

}  // namespace fastserve::sched
