#include <pybind11/native_enum.h>

#include <memory>

#include "bindings/bindings.h"
#include "kv/kv_manager.h"

namespace py = pybind11;

namespace fastserve::bindings {
namespace {

using namespace kv;

void register_enums(py::module_& module) {
  py::native_enum<Tier>(module, "Tier", "enum.Enum", "A pool of blocks.")
      .value("DEVICE", Tier::kDevice)
      .value("HOST", Tier::kHost)
      .finalize();
}

void register_values(py::module_& module) {
  py::class_<TierUsage>(module, "TierUsage",
                        "Block counts of one tier: free + used + in_transfer = total; cached ones are part of free.")
      .def_readonly("total", &TierUsage::total)
      .def_readonly("free", &TierUsage::free)
      .def_readonly("used", &TierUsage::used)
      .def_readonly("in_transfer", &TierUsage::in_transfer)
      .def_readonly("cached", &TierUsage::cached);
}

}  // namespace

void register_kv(py::module_& module) {
  module.attr("MAX_BLOCKS") = kMaxBlocks;  // of a tier
  register_enums(module);
  register_values(module);
  py::class_<KvManager> manager(
      module, "KvManager", "Owns every KV block of the device and the host pool, for one Scheduler, which takes it.");
  manager.def(py::init([](std::int32_t block_size, std::int32_t num_device_blocks, std::int32_t num_host_blocks,
                          bool enable_prefix_caching) {
                return std::make_unique<KvManager>(
                    KvConfig{block_size, num_device_blocks, num_host_blocks, enable_prefix_caching});
              }),
              py::kw_only(), py::arg("block_size") = KvConfig{}.block_size, py::arg("num_device_blocks"),
              py::arg("num_host_blocks") = KvConfig{}.num_host_blocks,
              py::arg("enable_prefix_caching") = KvConfig{}.enable_prefix_caching);
  manager.def("usage", &KvManager::usage, py::arg("tier"), "Block counts of a tier.");
}

}  // namespace fastserve::bindings
