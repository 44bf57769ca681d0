#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "bindings/bindings.h"
#include "bindings/sched_values.h"
#include "bindings/user_policy.h"
#include "sched/policies/policy_factory.h"
#include "sched/scheduler.h"

namespace py = pybind11;

namespace fastserve::bindings {
namespace {

using namespace sched;

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
std::span<const T> span_of(const Array<T>& array, const char* name) {
  FS_REQUIRE(array.ndim() == 1, name, " must have one dimension, got ", array.ndim());
  return {array.data(), static_cast<std::size_t>(array.size())};
}

/// A count or a size that a prediction is asked for.
double require_amount(const char* name, double value) {
  FS_REQUIRE(std::isfinite(value) && value >= 0.0, name, " must be finite and not negative, got ", value);
  return value;
}

IterationShape shape_of(double prefill_tokens, double pairs, double num_decodes, double decode_ctx) {
  return {require_amount("prefill_tokens", prefill_tokens), require_amount("prefill_pairs", pairs),
          require_amount("num_decodes", num_decodes), require_amount("decode_ctx", decode_ctx)};
}

void register_latency_model(py::module_& module) {
  py::class_<LatencyModel>(module, "LatencyModel",
                           "Seconds of an iteration: base + a * prefill_tokens + b * prefill_pairs + c * num_decodes + "
                           "d * decode_ctx, times a correction learned from the iterations that ran.")
      .def(py::init<const LatencyModel::Coefficients&>(), py::arg("coefficients") = LatencyModel::kPrior,
           "coefficients: (base, a, b, c, d), seconds, none negative.")
      .def(
          "fit",
          [](LatencyModel& self, const Array<double>& samples) {
            FS_REQUIRE(samples.ndim() == 2 && samples.shape(1) == LatencyModel::kNumCoefficients,
                       "samples must be float64 [num_samples, 5]");
            self.fit({reinterpret_cast<const LatencyModel::Sample*>(samples.data()),
                      static_cast<std::size_t>(samples.shape(0))});
          },
          py::arg("samples"),
          "Fit to measured iterations, float64 [n, 5]: prefill_tokens, prefill_pairs, num_decodes, decode_ctx, "
          "seconds.")
      .def(
          "observe",
          [](LatencyModel& self, double prefill_tokens, double pairs, double num_decodes, double decode_ctx,
             double seconds) { self.observe(shape_of(prefill_tokens, pairs, num_decodes, decode_ctx), seconds); },
          py::arg("prefill_tokens"), py::arg("prefill_pairs"), py::arg("num_decodes"), py::arg("decode_ctx"),
          py::arg("seconds"), "Let the correction follow one iteration that ran.")
      .def(
          "iteration_s",
          [](const LatencyModel& self, double prefill_tokens, double pairs, double num_decodes, double decode_ctx) {
            return self.iteration_s(shape_of(prefill_tokens, pairs, num_decodes, decode_ctx));
          },
          py::arg("prefill_tokens"), py::arg("prefill_pairs"), py::arg("num_decodes"), py::arg("decode_ctx"),
          "Predicted seconds of an iteration.")
      .def(
          "prefill_s",
          [](const LatencyModel& self, double num_tokens, double ctx) {
            return self.prefill_s(require_amount("num_tokens", num_tokens), require_amount("ctx", ctx));
          },
          py::arg("num_tokens"), py::arg("ctx") = 0.0,
          "Predicted seconds of a prefill of num_tokens behind ctx tokens.")
      .def(
          "decode_s",
          [](const LatencyModel& self, double batch, double total_ctx) {
            return self.decode_s(require_amount("batch", batch), require_amount("total_ctx", total_ctx));
          },
          py::arg("batch"), py::arg("total_ctx"), "Predicted seconds of a decode iteration.")
      .def("coefficients", &LatencyModel::coefficients, "(base, a, b, c, d), without the correction.")
      .def_property_readonly("correction", &LatencyModel::correction,
                             "Measured over predicted time, smoothed, within 1/4..4.");
  module.def(
      "prefill_pairs",
      [](double num_tokens, double ctx) {
        return prefill_pairs(require_amount("num_tokens", num_tokens), require_amount("ctx", ctx));
      },
      py::arg("num_tokens"), py::arg("ctx"),
      "(query, key) pairs that causal attention computes for num_tokens queries behind ctx tokens.");
}

/// Python hands over 64 bits: a number that is too large for its field is refused by the field's limits.
template <typename T>
struct Wide {
  using type = T;
};
template <>
struct Wide<std::int32_t> {
  using type = std::int64_t;
};
template <>
struct Wide<std::optional<std::int32_t>> {
  using type = std::optional<std::int64_t>;
};

template <typename Value>
void define_setting(py::class_<SchedulerConfig>& config, const char* name, Value SchedulerConfig::* member,
                    const Limits& limits) {
  config.def_property(
      name, [member](const SchedulerConfig& self) { return self.*member; },
      [name, member, limits](SchedulerConfig& self, const typename Wide<Value>::type& value) {
        limits.check(name, value);
        if constexpr (std::is_same_v<Value, std::optional<std::int32_t>>)
          self.*member = value ? Value(static_cast<std::int32_t>(*value)) : std::nullopt;
        else
          self.*member = static_cast<Value>(value);
      });
}

/// The names of the policies as a type: the choices of users, and what type checkers see.
py::object policy_names() {
  py::list names;
  for (const PolicyKind& each : policies()) names.append(each.name);
  return py::module_::import("typing").attr("Literal").attr("__getitem__")(py::tuple(names));
}

void register_config(py::module_& module) {
  module.attr("PolicyName") = policy_names();
  py::class_<SchedulerConfig> config(module, "SchedulerConfig",
                                     "How requests are scheduled, with the defaults and limits of every setting. "
                                     "fastserve.config.SchedulerConfig says what each means.");
  config
      .def(py::init([](const py::kwargs& settings) {
             SchedulerConfig made;
             const py::object self = py::cast(&made, py::return_value_policy::reference);
             for (const auto& [name, value] : settings) {
               if (!py::hasattr(self, name))
                 throw py::type_error("SchedulerConfig has no setting " + std::string(py::str(name)));
               py::setattr(self, name, value);
             }
             return made;
           }),
           "Raises InvalidArgumentError when a value is out of its limits, TypeError for an unknown setting.")
      .def_property(
          "policy", [](const SchedulerConfig& self) { return self.policy->name; },
          [](SchedulerConfig& self, const std::string& name) { self.policy = &policy_named(name); })
      .def_property(
          "preemption_mode", [](const SchedulerConfig& self) { return name_of(self.preemption_mode); },
          [](SchedulerConfig& self, const std::string& name) { self.preemption_mode = preemption_mode_named(name); })
      .def("validate", &SchedulerConfig::validate,
           "Raise InvalidArgumentError when a value is out of its limits or settings do not go together.");
  for_each_setting(
      [&]<typename Value, typename... Rest>(const char* name, Value SchedulerConfig::* member, const Rest&... limits) {
        if constexpr (sizeof...(limits) == 0)
          config.def_readwrite(name, member);
        else
          define_setting(config, name, member, limits...);
      });
}

void define_calls(py::class_<Scheduler>& scheduler) {
  scheduler
      .def(
          "add",
          [](Scheduler& self, std::int64_t request_id, const Array<std::int32_t>& prompt, const RequestOptions& options,
             double now_s) { return self.add(request_id, span_of(prompt, "prompt"), options, now_s); },
          py::arg("request_id"), py::arg("prompt"), py::arg_v("options", RequestOptions{}, "RequestOptions()"),
          py::kw_only(), py::arg("now_s"),
          "Queue a request; prompt int32 [n]. Returns its slot of the workers' request tables, which a plan "
          "lists in ended_slots when it is free again. Raises InvalidArgumentError when it can never run.")
      .def("abort", &Scheduler::abort, py::arg("request_id"), py::arg("now_s"),
           "End a request; False when unknown or finished. Its end comes as an event, at once or with a commit.")
      .def("fail", &Scheduler::fail, py::arg("request_id"), py::arg("now_s"),
           "As abort, for a request that cannot go on: it ends with ERROR.")
      .def(
          "stop", &Scheduler::stop, py::arg("request_id"), py::arg("num_tokens"), py::arg("now_s"),
          "End a request at a stop string that was found in its outputs, of which the first num_tokens are the answer. "
          "False when unknown or finished; raises InvalidArgumentError when it has no such number of outputs.")
      .def(
          "schedule",
          [](Scheduler& self, double now_s) { return std::const_pointer_cast<StepPlan>(self.schedule(now_s)); },
          py::arg("now_s"),
          "Plan the next iteration; as many plans may be in flight as there are stages, and two with one stage.")
      .def(
          "commit",
          [](Scheduler& self, std::int64_t step, const Array<std::int32_t>& sampled, double iteration_s, double now_s) {
            self.commit(StepId{step}, span_of(sampled, "sampled"), iteration_s, now_s);
          },
          py::arg("step"), py::arg("sampled"), py::arg("iteration_s"), py::arg("now_s"),
          "The oldest plan in flight ran; sampled int32 [num_samples], negative = no token, which fails the request.")
      .def(
          "complete_transfers",
          [](Scheduler& self, const Array<std::int64_t>& ids, const Array<std::uint8_t>& ok, double now_s) {
            self.complete_transfers(span_of(ids, "ids"), span_of(ok, "ok"), now_s);
          },
          py::arg("ids"), py::arg("ok"), py::arg("now_s"), "Transfers ended: ids int64 [n], ok uint8 [n], 0 = failed.")
      .def(
          "fail_step", [](Scheduler& self, std::int64_t step, double now_s) { self.fail_step(StepId{step}, now_s); },
          py::arg("step"), py::arg("now_s"), "Fail every request of the oldest plan in flight.")
      .def("take_events", &Scheduler::take_events, "Tokens and ends since the last call.")
      .def("set_link_rates", &Scheduler::set_link_rates, py::arg("offload_bytes_per_s"), py::arg("upload_bytes_per_s"),
           "Measured speed of the copies.")
      .def("stats", &Scheduler::stats, "State and counters now.")
      .def("level_quanta_s", &Scheduler::level_quanta_s,
           "Quanta of the policy's levels, seconds; infinite where no request is demoted, none for a policy without "
           "levels.")
      .def("request_stats", &Scheduler::request_stats, py::arg("request_id"), py::arg("now_s"),
           "Where the time of a request went; a finished one is known until the schedule() after its end was taken.")
      .def(
          "explain",
          [](const Scheduler& self, std::int64_t request_id, double now_s) {
            return to_dict(self.explain(request_id, now_s));
          },
          py::arg("request_id"), py::arg("now_s"), "Why a request is where it is, as a dict.")
      .def(
          "length_classes",
          [](const Scheduler& self) {
            py::list classes;
            for (const LengthClassView& view : self.length_classes()) classes.append(to_dict(view));
            return classes;
          },
          "What the policy learned knows of output lengths: a dict per class, in the order of length_class.")
      .def("check_integrity", &Scheduler::check_integrity,
           "Raise InternalError at the first broken invariant. For tests; slow.")
      .def_property_readonly("has_unfinished", &Scheduler::has_unfinished)
      .def_property_readonly("has_events", &Scheduler::has_events, "Whether take_events() would return any.")
      .def_property_readonly("num_unfinished", &Scheduler::num_unfinished)
      .def_property_readonly("num_transfers_in_flight", &Scheduler::num_transfers_in_flight);
}

}  // namespace

void register_sched(py::module_& module) {
  register_sched_values(module);
  register_latency_model(module);
  register_config(module);
  register_user_request(module);
  py::class_<Scheduler> scheduler(
      module, "Scheduler",
      "Policy, KV and swap planner: schedule() -> run the plan -> commit(). Times are monotonic "
      "seconds given by the caller. One thread.");
  scheduler.def(py::init([](const SchedulerConfig& config, kv::KvManager& kv, LatencyModel& latency,
                            const std::optional<py::object>& policy) {
                  return std::make_unique<Scheduler>(config, kv, latency,
                                                     policy ? std::make_unique<UserPolicy>(*policy) : nullptr);
                }),
                py::keep_alive<1, 3>(), py::keep_alive<1, 4>(), py::arg("config"), py::arg("kv"), py::arg("latency"),
                py::arg("policy") = py::none(),
                "policy: a fastserve.sim.Policy in place of the one that the config names. Raises InvalidArgumentError "
                "for a config that does not hold, see SchedulerConfig.validate.");
  define_calls(scheduler);
}

}  // namespace fastserve::bindings
