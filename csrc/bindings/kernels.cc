#include "bindings/bindings.h"

namespace fastserve::bindings {

void register_kernels(pybind11::module_& module) { static_cast<void>(module); }

}  // namespace fastserve::bindings
