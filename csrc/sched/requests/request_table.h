#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "sched/requests/request.h"

namespace fastserve::sched {

/// Owns the requests: the live ones by id, the finished ones until their finish event was delivered and no plan in
/// flight names them. Each has a slot of its own for that time, a small number that is used again: workers keep their
/// entry of the request there.
class RequestTable {
 public:
  /// `max_total`: tokens of prompt and output, at most. Throws InvalidArgumentError when the id is in use.
  Request& add(std::int64_t id, std::span<const std::int32_t> prompt, std::int32_t max_total,
               const RequestOptions& options, double now_s);
  /// Live, or finished but not purged yet; nullptr when unknown.
  Request* find(std::int64_t id) const;
  Request* find_live(std::int64_t id) const;

  /// `request` finished; its record stays until purge().
  void retire(Request& request);
  /// The finish events of all requests retired so far were delivered.
  void mark_delivered();
  /// Forget the requests whose finish was delivered and that no plan in flight names; append the freed slots.
  void purge(std::vector<std::int32_t>& ended_slots);

  /// A request that is past its deadline, the earliest first, once each; nullptr when there is none. O(log n).
  Request* take_expired(double now_s);

  std::int64_t num_live() const { return static_cast<std::int64_t>(live_.size()); }
  /// Throws InternalError when two requests have one slot, or a slot is lost.
  void check_slots() const;
  template <typename Visit>
  void for_each_live(Visit&& visit) const {  // in no order: for sums and checks only
    for (const auto& entry : live_) visit(*entry.second);
  }

 private:
  struct Retired {
    std::unique_ptr<Request> request;
    bool delivered = false;
  };
  using DeadlineKey = std::pair<double, std::int64_t>;  // deadline_s, serial
  static DeadlineKey deadline_key(const Request& request) { return {request.options.deadline_s, request.serial}; }

  std::unordered_map<std::int64_t, std::unique_ptr<Request>> live_;
  std::vector<Retired> retired_;
  std::map<DeadlineKey, Request*> deadlines_;
  std::int64_t next_serial_ = 0;
  std::vector<std::int32_t> free_slots_;
  std::int32_t num_slots_ = 0;  // free or not
};

}  // namespace fastserve::sched
