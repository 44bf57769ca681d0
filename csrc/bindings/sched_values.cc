#include "bindings/sched_values.h"

#include <pybind11/native_enum.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>
#include <deque>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "sched/plans/step_plan.h"
#include "sched/scheduler.h"

namespace py = pybind11;

namespace fastserve::bindings {
namespace {

using namespace sched;

/// A new read-only array over memory that `owner` keeps alive. Straight to numpy: a plan has some twenty arrays, and
/// the step waits for them.
template <typename T>
PyObject* new_view(const std::vector<T>& values, PyObject* owner) {
  static const py::detail::npy_api& numpy = py::detail::npy_api::get();
  static PyObject* const dtype = py::dtype::of<T>().release().ptr();
  static T nothing{};
  Py_intptr_t length = static_cast<Py_intptr_t>(values.size());
  void* const data = values.empty() ? &nothing : const_cast<T*>(values.data());
  Py_INCREF(dtype);  // taken by the next call
  PyObject* const array = numpy.PyArray_NewFromDescr_(numpy.PyArray_Type_, dtype, 1, &length, nullptr, data,
                                                      py::detail::npy_api::NPY_ARRAY_ALIGNED_, nullptr);
  if (!array) return nullptr;
  Py_INCREF(owner);  // taken by the next call
  if (numpy.PyArray_SetBaseObject_(array, owner) == 0) return array;
  Py_DECREF(array);
  return nullptr;
}

/// Getter of an array of a bound Owner at the byte offset `closure`; the descriptor has checked the type of `self`.
template <typename Owner, typename T>
PyObject* get_array(PyObject* self, void* closure) {
  const auto* const owner =
      static_cast<const char*>(reinterpret_cast<py::detail::instance*>(self)->simple_value_holder[0]);
  if (!owner) {
    PyErr_SetString(PyExc_ValueError, "the object was not initialised");
    return nullptr;
  }
  return new_view(*reinterpret_cast<const std::vector<T>*>(owner + reinterpret_cast<std::ptrdiff_t>(closure)), self);
}

template <typename T>
constexpr const char* kDtypeName = nullptr;
template <>
constexpr const char* kDtypeName<std::uint8_t> = "uint8";
template <>
constexpr const char* kDtypeName<std::int32_t> = "int32";
template <>
constexpr const char* kDtypeName<std::int64_t> = "int64";

/// "int32 [n], ...": dtype, then what the caller says of shape and meaning. third_party/write_stubs.py takes the type of
/// an array from it.
template <typename T>
const char* array_doc(const char* shape_and_meaning) {
  static_assert(kDtypeName<T> != nullptr, "an array of a type without a name");
  static std::deque<std::string> docs;  // live as long as the types
  docs.push_back(std::string(kDtypeName<T>) + " " + shape_and_meaning);
  return docs.back().c_str();
}

/// Define `name` on the type as a view of the member at `offset`. A C getter: half the cost of a bound property.
template <typename Owner, typename T>
void define_array(const py::handle& type, const char* name, std::ptrdiff_t offset, const char* shape_and_meaning) {
  auto* const definition = new PyGetSetDef{name, &get_array<Owner, T>, nullptr, array_doc<T>(shape_and_meaning),
                                           reinterpret_cast<void*>(offset)};
  const auto descriptor = py::reinterpret_steal<py::object>(
      PyDescr_NewGetSet(reinterpret_cast<PyTypeObject*>(type.ptr()), definition));  // lives as long as the type
  if (!descriptor) throw py::error_already_set();
  py::setattr(type, name, descriptor);
}

void register_step_plan(py::module_& module) {
  py::class_<StepPlan, std::shared_ptr<StepPlan>> plan(module, "StepPlan",
                                                       "One iteration as the workers need it. Every array is a "
                                                       "read-only numpy view that keeps the plan alive; the fields are "
                                                       "described in csrc/sched/plans/step_plan.h.");
  plan.def(py::init<>(), "A plan of nothing, for collective.read_plan.");
  plan.def_property_readonly("step", [](const StepPlan& self) { return static_cast<std::int64_t>(self.step); })
      .def_readonly("num_decode_rows", &StepPlan::num_decode_rows)
      .def_property_readonly("num_rows", &StepPlan::num_rows)
      .def_property_readonly("num_tokens", &StepPlan::num_tokens)
      .def_property_readonly("num_samples", &StepPlan::num_samples)
      .def_property_readonly("num_transfers", &StepPlan::num_transfers)
      .def_property_readonly(
          "shape",
          [](const StepPlan& self) {
            const IterationShape shape = self.shape();
            return std::tuple(shape.prefill_tokens, shape.prefill_pairs, shape.num_decodes, shape.decode_ctx);
          },
          "What the time of the iteration depends on: (prefill_tokens, prefill_pairs, num_decodes, decode_ctx), the "
          "arguments of LatencyModel.iteration_s.")
      .def(
          "slice",
          [](const StepPlan& self, std::int32_t first, std::int32_t end) {
            return std::make_shared<StepPlan>(self.slice(first, end));
          },
          py::arg("first"), py::arg("end"),
          "The rows [first, end) as a plan of their own, with their sampling entries, without transfers and ended "
          "slots.");
  const StepPlan layout;
  StepPlan::for_each_array(layout, [&](const char* name, const auto& member) {
    using T = typename std::remove_cvref_t<decltype(member)>::value_type;
    const auto offset = reinterpret_cast<const char*>(&member) - reinterpret_cast<const char*>(&layout);
    define_array<StepPlan, T>(plan, name, offset, "[n], read-only; see csrc/sched/plans/step_plan.h.");
  });
}

void register_events(py::module_& module) {
  py::class_<StepEvents> events(module, "StepEvents",
                                "Tokens and ends of requests, in the order of happening; read-only numpy views.");
  const StepEvents layout;
  const auto array = [&]<typename T>(const char* name, const std::vector<T>& member, const char* doc) {
    define_array<StepEvents, T>(events, name,
                                reinterpret_cast<const char*>(&member) - reinterpret_cast<const char*>(&layout), doc);
  };
  array("request_ids", layout.request_ids, "[n].");
  array("sample_indices", layout.sample_indices, "[n], sampling entry of the committed step, -1 = none.");
  array("token_ids", layout.token_ids, "[n], -1 = no token.");
  array("finish_reasons", layout.finish_reasons, "[n], FinishReason; NONE while it goes on.");
  array("num_cached_tokens", layout.num_cached_tokens, "[n], prompt tokens from the prefix cache.");
}

void register_enums(py::module_& module) {
  py::native_enum<FinishReason>(module, "FinishReason", "enum.IntEnum", "Why a request ended.")
      .value("NONE", FinishReason::kNone)
      .value("STOP", FinishReason::kStop)
      .value("LENGTH", FinishReason::kLength)
      .value("ABORT", FinishReason::kAbort)
      .value("ERROR", FinishReason::kError)
      .value("DEADLINE", FinishReason::kDeadline)
      .finalize();
}

void register_statistics(py::module_& module) {
  py::class_<RequestStats>(module, "RequestStats", "Where the time of a request went, seconds.")
      .def_readonly("preemptions", &RequestStats::preemptions)
      .def_readonly("parked_s", &RequestStats::parked_s)
      .def_readonly("host_s", &RequestStats::host_s)
      .def_readonly("upload_wait_s", &RequestStats::upload_wait_s)
      .def_readonly("recomputed_tokens", &RequestStats::recomputed_tokens)
      .def_readonly("queue_s", &RequestStats::queue_s);
  py::class_<SchedulerStats> stats(module, "SchedulerStats", "State and counters of the scheduler at one moment.");
#define FS_STAT(field) stats.def_readonly(#field, &SchedulerStats::field)
  FS_STAT(num_running);
  FS_STAT(num_waiting);
  FS_STAT(num_parked_device);
  FS_STAT(num_parked_host);
  FS_STAT(num_held);
  FS_STAT(level_requests);
  FS_STAT(device_usage);
  FS_STAT(host_usage);
  FS_STAT(iterations);
  FS_STAT(iteration_tokens);
  FS_STAT(preemptions);
  FS_STAT(promotions);
  FS_STAT(demotions);
  FS_STAT(finished);
  FS_STAT(thrash_governor_trips);
  FS_STAT(parks);
  FS_STAT(swaps);
  FS_STAT(recomputes);
  FS_STAT(recomputes_by_mode);
  FS_STAT(recomputes_cheaper);
  FS_STAT(recomputes_host_full);
  FS_STAT(recomputes_no_host);
  FS_STAT(recomputed_tokens);
  FS_STAT(dropped_s);
  FS_STAT(offload_blocks);
  FS_STAT(mirror_blocks);
  FS_STAT(upload_blocks);
  FS_STAT(offload_bytes);
  FS_STAT(upload_bytes);
  FS_STAT(uploads_hit);
  FS_STAT(uploads_late);
  FS_STAT(uploads_wasted);
  FS_STAT(prefix_cache_queries);
  FS_STAT(prefix_cache_hits);
#undef FS_STAT
}

const char* name_of_residency(kv::Residency residency) {
  static constexpr std::array<const char*, 5> kNames = {"none", "device", "offloading", "host", "uploading"};
  return kNames[static_cast<std::size_t>(residency)];
}

void register_request_options(py::module_& module) {
  const RequestOptions d;
  py::class_<RequestOptions>(
      module, "RequestOptions",
      "What the caller asks of one request; the scheduler copies it. deadline_s is absolute, <= 0 "
      "none; max_pause_s, ttft_slo_s and tpot_slo_s <= 0 the scheduler's; oracle_output_tokens is its output "
      "length, for srpt; requests of one length_class have similar output lengths, for learned.")
      .def(py::init([](std::int32_t max_tokens, std::int32_t min_tokens, bool ignore_eos,
                       std::vector<std::int32_t> eos_token_ids, std::vector<std::int32_t> stop_token_ids,
                       std::int32_t priority, std::uint64_t cache_salt, double deadline_s, double max_pause_s,
                       double ttft_slo_s, double tpot_slo_s, std::int32_t oracle_output_tokens,
                       std::uint64_t length_class) {
             return RequestOptions{max_tokens,
                                   min_tokens,
                                   ignore_eos,
                                   std::move(eos_token_ids),
                                   std::move(stop_token_ids),
                                   priority,
                                   cache_salt,
                                   deadline_s,
                                   max_pause_s,
                                   ttft_slo_s,
                                   tpot_slo_s,
                                   oracle_output_tokens,
                                   length_class};
           }),
           py::kw_only(), py::arg("max_tokens") = d.max_tokens, py::arg("min_tokens") = d.min_tokens,
           py::arg("ignore_eos") = d.ignore_eos, py::arg("eos_token_ids") = py::tuple(),
           py::arg("stop_token_ids") = py::tuple(), py::arg("priority") = d.priority,
           py::arg("cache_salt") = d.cache_salt, py::arg("deadline_s") = d.deadline_s,
           py::arg("max_pause_s") = d.max_pause_s, py::arg("ttft_slo_s") = d.ttft_slo_s,
           py::arg("tpot_slo_s") = d.tpot_slo_s, py::arg("oracle_output_tokens") = d.oracle_output_tokens,
           py::arg("length_class") = d.length_class);
}

}  // namespace

py::dict to_dict(const RequestView& view) {
  py::list decisions;
  for (const DecisionEntry& entry : view.decisions)
    decisions.append(py::make_tuple(entry.now_s, name_of(entry.decision)));
  using namespace py::literals;
  return py::dict("state"_a = name_of(view.state), "kv"_a = name_of_residency(view.residency),
                  "finish_reason"_a = name_of(view.finish_reason), "priority"_a = view.priority, "level"_a = view.level,
                  "starving"_a = view.starving, "held"_a = view.held, "attained_s"_a = view.attained_s,
                  "quantum_s"_a = view.quantum_s, "waited_s"_a = view.waited_s, "enst_s"_a = view.enst_s,
                  "requests_ahead"_a = view.requests_ahead, "prompt_tokens"_a = view.prompt_tokens,
                  "output_tokens"_a = view.output_tokens, "computed_tokens"_a = view.computed_tokens,
                  "device_blocks"_a = view.device_blocks, "parks"_a = view.parks, "promotions"_a = view.promotions,
                  "decisions"_a = decisions, "length_class"_a = view.length_class, "index_s"_a = view.index_s);
}

py::dict to_dict(const LengthClassView& view) {
  using namespace py::literals;
  py::dict quantiles;
  py::list levels;
  if (view.learned)
    for (std::size_t i = 0; i < view.quantiles.size(); ++i)
      quantiles[py::float_(LengthClassView::kQuantiles[i])] = view.quantiles[i];
  for (const LevelStep& step : view.levels)
    levels.append(py::dict("tokens"_a = step.tokens, "level"_a = step.level, "index_tokens"_a = step.index_tokens));
  return py::dict("length_class"_a = view.key, "num_observations"_a = view.num_observations,
                  "num_live"_a = view.num_live, "learned"_a = view.learned, "quantiles"_a = quantiles,
                  "levels"_a = levels);
}

void register_sched_values(py::module_& module) {
  register_request_options(module);
  register_enums(module);
  register_step_plan(module);
  register_events(module);
  register_statistics(module);
}

}  // namespace fastserve::bindings
