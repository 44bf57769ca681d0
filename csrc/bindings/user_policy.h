#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>

#include "sched/policies/policy.h"
#include "sched/queues/sorted_queue.h"

namespace fastserve::bindings {

class UserPolicy;

/// A request as a policy written in Python sees it. What it shows is as of the last event of the request.
struct UserRequest {
  std::int64_t id = 0;
  double arrival_s = 0.0;
  std::int32_t priority = 0;
  std::int32_t prompt_tokens = 0;
  std::int32_t max_tokens = 0;
  std::uint64_t length_class = 0;
  double first_iteration_s = 0.0;
  std::int32_t output_tokens = 0;
  double attained_s = 0.0;
  double waiting_since_s = 0.0;
  bool running = false;
  UserPolicy* policy = nullptr;  // while it is queued
  sched::Request* request = nullptr;

  double key() const;
  void set_key(double key);
  double work_s() const;
  void set_work_s(double work_s);
};

/// A policy whose decisions are made by an object of fastserve.sim.Policy. It keeps the requests sorted by the keys that
/// the object gives them.
class UserPolicy final : public sched::Policy {
 public:
  explicit UserPolicy(pybind11::object decider);
  ~UserPolicy() override;

  void join(sched::Request& request, double now_s, std::optional<double> first_iteration_s) override;
  void leave(sched::Request& request) override;
  void follow(sched::Request& request, Event event, double now_s) override;
  bool charge(sched::Request& request, std::int64_t iteration_ns, double next_iteration_s) override;
  std::int64_t promote_starving(double now_s) override;
  bool may_start(const sched::Request& request) const override;
  const sched::RequestQueue& order() const override { return queue_; }
  double enst_s(const sched::Request& request, double now_s) const override;

 private:
  friend struct UserRequest;
  struct Member {
    std::shared_ptr<UserRequest> seen;
    pybind11::object object;  // of `seen`: keeps the attributes that the decider gave it
  };
  void refresh(const sched::Request& request, UserRequest& seen) const;
  /// Call a method of the decider in which it may change keys.
  template <typename... Args>
  void change(const char* method, Args&&... args);
  void require_changing(const char* what) const;

  pybind11::object decider_;
  sched::SortedQueue queue_;
  std::unordered_map<const sched::Request*, Member> members_;
  bool changing_ = false;
};

void register_user_request(pybind11::module_& module);

}  // namespace fastserve::bindings
