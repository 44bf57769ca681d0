#include "bindings/bindings.h"

namespace fastserve::bindings {

void register_offload(pybind11::module_& module) { static_cast<void>(module); }

}  // namespace fastserve::bindings
