#pragma once

#include <pybind11/pybind11.h>

namespace fastserve::bindings {

// One registering function per kernel of the `kernels` submodule; kernels.cc only lists them.
void register_linear(pybind11::module_& module);
void register_read_bandwidth(pybind11::module_& module);
void register_norm(pybind11::module_& module);
void register_rope(pybind11::module_& module);
void register_activation(pybind11::module_& module);
void register_embedding(pybind11::module_& module);
void register_attention(pybind11::module_& module);
void register_sampling(pybind11::module_& module);
void register_copy_blocks(pybind11::module_& module);

}  // namespace fastserve::bindings
