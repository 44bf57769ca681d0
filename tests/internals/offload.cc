#include <pybind11/stl.h>

#include <memory>

#include "bindings/offload_handle.h"
#include "internals/fault_injector.h"
#include "internals/internals.h"

namespace py = pybind11;

namespace fastserve::internals {
namespace {

using namespace offload;
using bindings::EngineHandle;

void register_counters(py::module_& module) {
  py::class_<DirectionCounters>(module, "DirectionCounters", "What one direction has done since the engine started.")
      .def_readonly("num_transfers", &DirectionCounters::num_transfers, "Ended, failures and cancellations included.")
      .def_readonly("num_failed", &DirectionCounters::num_failed)
      .def_readonly("num_blocks", &DirectionCounters::num_blocks, "Copied by transfers that ended ok.")
      .def_readonly("num_copies", &DirectionCounters::num_copies, "Contiguous copies these blocks took.")
      .def_readonly("bytes", &DirectionCounters::bytes, "Copied by transfers that ended ok.");
  module.def(
      "counters", [](const EngineHandle& self, Direction direction) { return self.engine->counters(direction); },
      py::arg("engine"), py::arg("direction"));
  module.def(
      "num_in_flight", [](const EngineHandle& self) { return self.engine->num_in_flight(); }, py::arg("engine"),
      "Transfers submitted and not yet reported by poll or wait.");
  module.def(
      "num_verified", [](const EngineHandle& self) { return self.engine->num_verified(); }, py::arg("engine"),
      "Blocks whose hashes were compared.");
  module.def(
      "num_mismatches", [](const EngineHandle& self) { return self.engine->num_mismatches(); }, py::arg("engine"),
      "Of these, the ones that differed.");
  module.def(
      "check_integrity", [](const EngineHandle& self) { self.engine->check_integrity(); }, py::arg("engine"),
      "InternalError when queues, tickets and block uses contradict each other.");
}

void register_fault_injector(py::module_& module) {
  py::class_<FaultInjector, std::shared_ptr<FaultInjector>>(module, "FaultInjector",
                                                            "Makes the copies of an engine slow, or fail.")
      .def(py::init([](EngineHandle& self) { return FaultInjector::install(*self.engine); }), py::arg("engine"),
           "Take the place of an injector that the engine has.")
      .def("inject_delay", &FaultInjector::inject_delay, py::arg("direction"), py::arg("seconds"),
           "Every transfer of the direction takes this much longer from now on.")
      .def("inject_random_delay", &FaultInjector::inject_random_delay, py::arg("max_seconds"), py::arg("seed"),
           "Every transfer takes a random time below max_seconds longer.")
      .def("inject_failure", &FaultInjector::inject_failure, py::arg("direction"), py::arg("count"),
           "The next count transfers of the direction fail.")
      .def("inject_device_fault", &FaultInjector::inject_device_fault,
           "Every transfer from now on fails, as on a device that is lost.");
}

}  // namespace

void register_offload(py::module_& module) {
  register_counters(module);
  register_fault_injector(module);
}

}  // namespace fastserve::internals
