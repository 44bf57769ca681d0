#include "bindings/user_policy.h"

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "base/error.h"

namespace py = pybind11;

namespace fastserve::bindings {

using sched::Request;

double UserRequest::key() const { return request ? request->queue().sort_key : 0.0; }

void UserRequest::set_key(double key) {
  FS_REQUIRE(!std::isnan(key), "the key of a request must be a number, got NaN");
  FS_REQUIRE(policy, "request ", id, " has left the order: it has no key any more");
  policy->require_changing("key");
  policy->queue_.move_to(*request, key);
}

double UserRequest::work_s() const {
  return request ? request->queue().work_s : std::numeric_limits<double>::infinity();
}

void UserRequest::set_work_s(double work_s) {
  FS_REQUIRE(work_s >= 0.0, "work_s must not be negative, got ", work_s);
  FS_REQUIRE(policy, "request ", id, " has left the order: it has no work_s any more");
  policy->require_changing("work_s");
  UserPolicy::node(*request).work_s = work_s;
}

UserPolicy::UserPolicy(py::object decider)
    : Policy({.strict_classes = py::cast<bool>(decider.attr("strict_priority"))}),
      decider_(std::move(decider)),
      queue_(traits_.strict_classes) {}

UserPolicy::~UserPolicy() {
  for (auto& [request, member] : members_) member.seen->policy = nullptr, member.seen->request = nullptr;
}

template <typename... Args>
void UserPolicy::change(const char* method, Args&&... args) {
  changing_ = true;
  try {
    decider_.attr(method)(std::forward<Args>(args)...);
  } catch (...) {
    changing_ = false;
    throw;
  }
  changing_ = false;
}

void UserPolicy::require_changing(const char* what) const {
  FS_REQUIRE(changing_, what, " can be set in join, charge and promote only: elsewhere the order is being walked over");
}

void UserPolicy::refresh(const Request& request, UserRequest& seen) const {
  const sched::QueueNode& place = node(request);
  seen.output_tokens = request.num_outputs();
  seen.attained_s = static_cast<double>(place.attained_ns) * 1e-9;
  seen.waiting_since_s = place.wait_since_s;
  seen.running = request.plans_in_flight() > 0;
}

void UserPolicy::join(Request& request, double now_s, std::optional<double> first_iteration_s) {
  node(request).wait_since_s = now_s;
  if (first_iteration_s) node(request).first_iteration_s = *first_iteration_s;
  queue_.insert(request, node(request).sort_key);
  const auto seen = std::make_shared<UserRequest>(UserRequest{.id = request.id,
                                                              .arrival_s = request.arrival_s,
                                                              .priority = request.options.priority,
                                                              .prompt_tokens = request.num_prompt(),
                                                              .max_tokens = request.options.max_tokens,
                                                              .length_class = request.options.length_class,
                                                              .first_iteration_s = node(request).first_iteration_s,
                                                              .policy = this,
                                                              .request = &request});
  refresh(request, *seen);
  const Member& member = members_.insert_or_assign(&request, Member{seen, py::cast(seen)}).first->second;
  change("join", member.object, now_s);
}

void UserPolicy::leave(Request& request) {
  const auto at = members_.find(&request);
  const Member member = std::move(at->second);
  members_.erase(at);
  refresh(request, *member.seen);
  member.seen->policy = nullptr;
  member.seen->request = nullptr;
  queue_.erase(request);
  decider_.attr("leave")(member.object);
}

void UserPolicy::follow(Request& request, Event event, double now_s) {
  Policy::follow(request, event, now_s);
  if (const auto at = members_.find(&request); at != members_.end()) refresh(request, *at->second.seen);
}

bool UserPolicy::charge(Request& request, std::int64_t iteration_ns, double next_iteration_s) {
  node(request).attained_ns += iteration_ns;
  const Member& member = members_.at(&request);
  refresh(request, *member.seen);
  change("charge", member.object, static_cast<double>(iteration_ns) * 1e-9, next_iteration_s);
  return false;
}

std::int64_t UserPolicy::promote_starving(double now_s) {
  change("promote", now_s);
  return 0;
}

bool UserPolicy::may_start(const Request& request) const {
  const py::object answer = decider_.attr("may_start")(members_.at(&request).object);
  FS_REQUIRE(py::isinstance<py::bool_>(answer), "may_start must return True or False, got ",
             std::string(py::repr(answer)));
  return py::cast<bool>(answer);
}

double UserPolicy::enst_s(const Request& request, double now_s) const {
  if (request.plans_in_flight() > 0 || !request.queue().queued) return 0.0;
  const py::object estimate = decider_.attr("estimate_s")(members_.at(&request).object, now_s);
  if (!estimate.is_none()) {
    const bool is_number = py::isinstance<py::float_>(estimate) || py::isinstance<py::int_>(estimate);
    FS_REQUIRE(is_number && !std::isnan(py::cast<double>(estimate)), "estimate_s must return seconds or None, got ",
               std::string(py::repr(estimate)));
    return py::cast<double>(estimate);
  }
  return queue_.next(nullptr, sched::kAnyPlace) == &request ? 0.0 : std::numeric_limits<double>::infinity();
}

void register_user_request(py::module_& module) {
  py::class_<UserRequest, std::shared_ptr<UserRequest>>(
      module, "QueuedRequest", py::dynamic_attr(),
      "A request as a policy of the simulator sees it (fastserve.sim.Policy). It may be given further attributes.")
      .def_readonly("id", &UserRequest::id, "Row of the workload.")
      .def_readonly("arrival_s", &UserRequest::arrival_s)
      .def_readonly("priority", &UserRequest::priority, "Lower first, if the policy cares.")
      .def_readonly("prompt_tokens", &UserRequest::prompt_tokens)
      .def_readonly("max_tokens", &UserRequest::max_tokens, "Its limit; its length where lengths are known.")
      .def_readonly("length_class", &UserRequest::length_class)
      .def_readonly("first_iteration_s", &UserRequest::first_iteration_s, "Predicted time of its uncached prefill.")
      .def_readonly("output_tokens", &UserRequest::output_tokens, "Produced so far.")
      .def_readonly("attained_s", &UserRequest::attained_s, "Seconds of the iterations that it was in.")
      .def_readonly("waiting_since_s", &UserRequest::waiting_since_s, "Its last iteration, or its arrival.")
      .def_readonly("running", &UserRequest::running, "It is in a plan in flight.")
      .def_property("key", &UserRequest::key, &UserRequest::set_key,
                    "The smallest runs first; equal ones in order of arrival. Set it in join, charge or promote.")
      .def_property("work_s", &UserRequest::work_s, &UserRequest::set_work_s,
                    "Seconds that it is taken to run for once it gets on. Where it is infinite, the default, the "
                    "request neither takes memory from others to start nor gives way to such.");
}

}  // namespace fastserve::bindings
