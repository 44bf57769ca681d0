#include "bindings/kernels.h"

#include "bindings/bindings.h"

namespace fastserve::bindings {

void register_kernels(pybind11::module_& module) {
  register_linear(module);
  register_read_bandwidth(module);
  register_norm(module);
  register_rope(module);
  register_activation(module);
  register_embedding(module);
  register_attention(module);
  register_sampling(module);
  register_copy_blocks(module);
}

}  // namespace fastserve::bindings
