#include "internals/internals.h"

PYBIND11_MODULE(core_internals, module) {
  module.doc() = "What tests and benchmarks reach of the C++ core beyond fastserve._C; no part of the wheel.";
  pybind11::module_::import("fastserve._C");  // registers the types and the errors that both modules use
  fastserve::internals::register_kv(module);
  fastserve::internals::register_offload(module);
  fastserve::internals::register_sched(module);
}
