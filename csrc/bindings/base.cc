#include <sched.h>

#include <memory>
#include <mutex>

#include "base/cpu_isa.h"
#include "base/cuda_probe.h"
#include "bindings/bindings.h"
#include "bindings/compute_pool.h"

namespace py = pybind11;

namespace fastserve::bindings {
namespace {

int usable_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(0, sizeof(cores), &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

std::unique_ptr<ThreadPool>& pool_slot() {
  static std::unique_ptr<ThreadPool> pool;
  return pool;
}

}  // namespace

ThreadPool& compute_pool() {
  static std::mutex making;  // callers hold no GIL
  const std::lock_guard lock(making);
  auto& pool = pool_slot();
  if (!pool) pool = std::make_unique<ThreadPool>(usable_cores());
  return *pool;
}

void register_base(py::module_& module) {
  module.attr("__version__") = FASTSERVE_VERSION;
  module.def(
      "cpu_isa", [] { return std::string(cpu_isa_name(cpu_isa())); },
      "Instruction set of the CPU kernels in use: scalar, avx2, avx512 or amx.");
  module.def(
      "set_cpu_isa", [](const std::string& name) { override_cpu_isa(parse_cpu_isa(name.c_str())); }, py::arg("name"),
      "Use another instruction set from now on (tests); an error when the machine cannot run it.");
  module.def(
      "set_num_threads", [](int num_threads) { pool_slot() = std::make_unique<ThreadPool>(num_threads); },
      py::arg("num_threads"), "Replace the compute threads of this process; not beside a running kernel.");
  module.def("num_threads", [] { return compute_pool().num_threads(); }, "Number of compute threads of this process.");

  module.def("cuda_compiled", [] { return probe_cuda_build().compiled; }, "Whether this build carries CUDA code.");
  module.def(
      "cuda_build_version", [] { return probe_cuda_build().build_version; },
      "Version of the CUDA runtime linked in, for example 13.0; empty without CUDA.");
  module.def(
      "cuda_architectures", [] { return probe_cuda_build().architectures; },
      "Architectures the CUDA code is compiled for, separated by spaces.");
  module.def("cuda_problem", &probe_cuda_problem,
             "Why no CUDA device can be used, with the remedy; empty when one can.");
  module.def(
      "cuda_devices",
      [] {
        py::list devices;
        for (const CudaDevice& device : probe_cuda_devices()) {
          py::dict row;
          row["name"] = device.name;
          row["compute_capability"] = py::make_tuple(device.major, device.minor);
          row["memory_bytes"] = device.memory_bytes;
          devices.append(row);
        }
        return devices;
      },
      "CUDA devices seen by the driver: a list of {name, compute_capability, memory_bytes}; empty without a driver.");
}

}  // namespace fastserve::bindings
