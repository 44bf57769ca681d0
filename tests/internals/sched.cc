#include "internals/internals.h"
#include "sched/scheduler.h"

namespace py = pybind11;

namespace fastserve::internals {

using sched::Scheduler;

void register_sched(py::module_& module) {
  module.def(
      "park", &Scheduler::park, py::arg("scheduler"), py::arg("request_id"), py::arg("hold"), py::arg("now_s"),
      "Take the KV of a request off the device once it is in no plan; with hold it stays away until unpark. False when "
      "unknown.");
  module.def("unpark", &Scheduler::unpark, py::arg("scheduler"), py::arg("request_id"), py::arg("now_s"),
             "Undo park. False when unknown.");
}

}  // namespace fastserve::internals
