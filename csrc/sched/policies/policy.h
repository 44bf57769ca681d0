#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "sched/queues/request_queue.h"
#include "sched/requests/request.h"

namespace fastserve::sched {

/// What the rest of the scheduler can count on under a policy.
struct PolicyTraits {
  bool strict_classes = true;    // nothing stands behind a request of a larger RequestOptions::priority
  bool keeps_max_pause = false;  // a stream that paused for max_pause_s is brought on
  bool limits_streams = false;   // requests start only while each can have its turn within max_pause_s
};

/// Where the unfinished requests stand in the order in which they run. Knows no KV and no batch: only order, time attained
/// and time waited. Owns the queue nodes of requests. Held and finished requests are not queued.
class Policy {
 public:
  enum class Event : std::uint8_t {
    kRuns,     // it went into a plan and had been in none
    kRests,    // it is in no plan any more: it waits from now on
    kCounted,  // it counts as started from now on, or no longer does (Request::counts_as_started)
  };

  explicit Policy(PolicyTraits traits) : traits_(traits) {}
  virtual ~Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;

  /// It enters the order and waits from now on. `first_iteration_s`: the predicted time of its uncached prefill; none where
  /// it comes back after leave().
  virtual void join(Request& request, double now_s, std::optional<double> first_iteration_s) = 0;
  virtual void leave(Request& request) = 0;
  /// For a policy that follows waits or starts.
  virtual void follow(Request& request, Event event, double now_s);
  /// It was in an iteration of `iteration_ns`; its next one takes `next_iteration_s`. True when it was demoted.
  virtual bool charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) = 0;
  /// Move forward what is due, at most as many as the batch has slots: more could not run now, and a burst must not make
  /// the step long. Called before each plan; the number moved.
  virtual std::int64_t promote_starving(double now_s);
  /// It may begin beside those that are started.
  virtual bool may_start(const Request& request) const;
  virtual const RequestQueue& order() const = 0;
  /// Estimated next scheduled time, in seconds from now.
  virtual double enst_s(const Request& request, double now_s) const = 0;

  RequestQueue& order() { return const_cast<RequestQueue&>(std::as_const(*this).order()); }
  const PolicyTraits& traits() const { return traits_; }
  /// Seconds that the prefills of one iteration may add to it so that the streams in it do not fall behind.
  double most_prefill_s() const { return most_prefill_s_; }

 protected:
  /// The part of a request that policies own.
  static QueueNode& node(Request& request) { return request.queue_; }
  static const QueueNode& node(const Request& request) { return request.queue_; }

  PolicyTraits traits_;
  double most_prefill_s_ = std::numeric_limits<double>::infinity();
};

}  // namespace fastserve::sched
