#pragma once

#include <pybind11/pybind11.h>

namespace fastserve::bindings {

// One registering function per room; module.cc only lists them.
void register_errors(pybind11::module_& module);
void register_base(pybind11::module_& module);
void register_kv(pybind11::module_& module);
void register_sched(pybind11::module_& module);
void register_offload(pybind11::module_& module);
void register_kernels(pybind11::module_& module);
void register_collective(pybind11::module_& module);

}  // namespace fastserve::bindings
