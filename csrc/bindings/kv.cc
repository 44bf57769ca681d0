#include "bindings/bindings.h"

namespace fastserve::bindings {

void register_kv(pybind11::module_& module) { static_cast<void>(module); }

}  // namespace fastserve::bindings
