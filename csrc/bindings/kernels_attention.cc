#include "bindings/kernels.h"

namespace fastserve::bindings {

void register_attention(pybind11::module_& module) { static_cast<void>(module); }
void register_sampling(pybind11::module_& module) { static_cast<void>(module); }
void register_copy_blocks(pybind11::module_& module) { static_cast<void>(module); }

}  // namespace fastserve::bindings
