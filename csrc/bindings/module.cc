#include "bindings/bindings.h"

namespace py = pybind11;
namespace fs = fastserve::bindings;

PYBIND11_MODULE(_C, module) {
  module.doc() = "The C++ core of FastServe: scheduler, KV manager, offload engine, kernels.";
  fs::register_errors(module);
  fs::register_base(module);
  const auto room = [&](const char* name, const char* doc) { return module.def_submodule(name, doc); };
  auto kv = room("kv", "Block pools, prefix cache, KV manager.");
  auto sched = room("sched", "Policies, latency model, swap planner, StepPlan, scheduler.");
  auto offload = room("offload", "Asynchronous block copies between device and host memory.");
  auto kernels = room("kernels", "Kernels on borrowed tensors (DLPack); outputs are passed in.");
  auto collective =
      room("collective", "Shared memory between the processes of one machine: plans to ranks, tensors among them.");
  fs::register_kv(kv);
  fs::register_sched(sched);
  fs::register_offload(offload);
  fs::register_kernels(kernels);
  fs::register_collective(collective);
}
